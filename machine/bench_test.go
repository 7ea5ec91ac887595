package machine

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/api"
)

// benchApply applies entries in units of 64, as a busy member does.
func benchApply(b *testing.B, mine bool, make func(l *entries, i int) raftpb.Entry) {
	r := newRig(b, Options{QuotaBytes: -1})
	var l entries
	l.birth("3.7.0")
	r.apply(false, l.all...)
	const distinct = 10_000
	all := l.all
	for i := range distinct {
		all = append(all, make(&entries{all: all}, i))
	}
	all = all[len(l.all):]
	index := uint64(len(l.all))
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; {
		r.m.Begin()
		for range 64 {
			e := all[i%distinct]
			index++
			e.Index, e.Term = index, 2
			if res := r.m.Apply(e, mine); res.Err != nil || res.Fatal != nil {
				r.m.End()
				b.Fatal(res.Err, res.Fatal)
			}
			if i++; i == b.N {
				break
			}
		}
		r.m.End()
	}
}

func BenchmarkPut(b *testing.B) {
	for _, mine := range []bool{false, true} {
		b.Run(fmt.Sprintf("mine=%v", mine), func(b *testing.B) {
			value := string(make([]byte, 256))
			benchApply(b, mine, func(l *entries, i int) raftpb.Entry {
				return l.request(api.FieldPut, put(fmt.Sprintf("key/%08d", i), value, 0))
			})
		})
	}
}

// BenchmarkTxn is the compare-and-put by which Kubernetes writes.
func BenchmarkTxn(b *testing.B) {
	value := string(make([]byte, 256))
	benchApply(b, true, func(l *entries, i int) raftpb.Entry {
		key := []byte(fmt.Sprintf("key/%08d", i))
		return l.request(api.FieldTxn, &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: key, Target: pb.Compare_MOD, Result: pb.Compare_NOT_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: 1}}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put(string(key), value, 0)}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
		})
	})
}
