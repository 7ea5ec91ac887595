package machine

import (
	"fmt"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
)

// TestReadTxnBesideWriter reads two keys that are always written together, while they
// are written, deleted and compacted away: a reader must see one state.
func TestReadTxnBesideWriter(t *testing.T) {
	r := newRig(t, Options{})
	var l entries
	l.birth("3.7.0")
	r.apply(false, l.all...)
	get := func(key string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
	}
	missing := func(key string) *pb.Compare {
		return &pb.Compare{Key: []byte(key), Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{}}
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				resp, err := r.m.ReadTxn(&pb.TxnRequest{
					Compare: []*pb.Compare{missing("a")},
					Success: []*pb.RequestOp{get("a"), get("b")},
					Failure: []*pb.RequestOp{get("b"), get("a"), {Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Compare: []*pb.Compare{missing("b")}}}}},
				})
				if err != nil {
					t.Error(err)
					return
				}
				check(t, resp)
			}
		})
	}
	pair := func(value string) *pb.TxnRequest {
		return &pb.TxnRequest{Success: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestPut{RequestPut: put("a", value, 0)}}, {Request: &pb.RequestOp_RequestPut{RequestPut: put("b", value, 0)}}}}
	}
	for i := range 2000 {
		if i%5 == 4 {
			r.apply(false, l.request(api.FieldDeleteRange, &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("c")}))
			continue
		}
		r.apply(false, l.request(api.FieldTxn, pair(fmt.Sprint(i))))
		if i%3 == 0 {
			rev, _ := r.m.KV().Revision()
			r.apply(false, l.request(api.FieldCompaction, &pb.CompactionRequest{Revision: rev}))
			r.m.CompactStep(10)
		}
	}
	close(done)
	readers.Wait()
}

func check(t *testing.T, resp *pb.TxnResponse) {
	t.Helper()
	a, b := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Kvs
	switch {
	case len(a) != len(b) || len(a) == 1 && (string(a[0].Value) != string(b[0].Value) || a[0].ModRevision != b[0].ModRevision):
		t.Errorf("torn: %v %v", a, b)
	case resp.Succeeded != (len(a) == 0):
		t.Errorf("the compare saw another state: %v", resp)
	case !resp.Succeeded && resp.Responses[2].GetResponseTxn().Succeeded:
		t.Errorf("the nested compare saw another state: %v", resp)
	case len(a) == 1 && a[0].ModRevision > resp.Header.Revision:
		t.Errorf("revision %d answers with one of %d", resp.Header.Revision, a[0].ModRevision)
	}
}
