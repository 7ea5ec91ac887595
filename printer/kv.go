package printer

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Get is the answer to a range.
func Get(r *clientv3.GetResponse) Result {
	m := (*pb.RangeResponse)(r)
	return Result{
		simple: func(t *text) { simpleRange(t, m) },
		fields: func(t *text) { fieldsRange(t, m) },
		json:   m,
		proto:  m,
	}
}

// Put is the answer to a put.
func Put(r *clientv3.PutResponse) Result {
	m := (*pb.PutResponse)(r)
	return Result{
		simple: func(t *text) { simplePut(t, m) },
		fields: func(t *text) { fieldsPut(t, m) },
		json:   m,
		proto:  m,
	}
}

// Delete is the answer to a delete range.
func Delete(r *clientv3.DeleteResponse) Result {
	m := (*pb.DeleteRangeResponse)(r)
	return Result{
		simple: func(t *text) { simpleDelete(t, m) },
		fields: func(t *text) { fieldsDelete(t, m) },
		json:   m,
		proto:  m,
	}
}

// Txn is the answer to a transaction.
func Txn(r *clientv3.TxnResponse) Result {
	m := (*pb.TxnResponse)(r)
	return Result{
		simple: func(t *text) { simpleTxn(t, m) },
		fields: func(t *text) { fieldsTxn(t, m) },
		json:   jsonTxn(m),
		proto:  m,
	}
}

// txnJSON is the JSON of a transaction. The fields of its operations have the names
// of the wire, not those of Go.
type txnJSON struct {
	Header    *pb.ResponseHeader `json:"header,omitempty"`
	Succeeded bool               `json:"succeeded,omitempty"`
	Responses []opJSON           `json:"responses,omitempty"`
}

type opJSON struct {
	Response struct {
		Range       *pb.RangeResponse       `json:"response_range,omitempty"`
		Put         *pb.PutResponse         `json:"response_put,omitempty"`
		DeleteRange *pb.DeleteRangeResponse `json:"response_delete_range,omitempty"`
		Txn         *txnJSON                `json:"response_txn,omitempty"`
	}
}

func jsonTxn(m *pb.TxnResponse) *txnJSON {
	j := &txnJSON{Header: m.Header, Succeeded: m.Succeeded}
	for _, r := range m.Responses {
		var op opJSON
		op.Response.Range = r.GetResponseRange()
		op.Response.Put = r.GetResponsePut()
		op.Response.DeleteRange = r.GetResponseDeleteRange()
		if t := r.GetResponseTxn(); t != nil {
			op.Response.Txn = jsonTxn(t)
		}
		j.Responses = append(j.Responses, op)
	}
	return j
}

// Watch is one message of a watch.
func Watch(r *clientv3.WatchResponse) Result {
	header := r.Header
	m := &pb.WatchResponse{
		Header: header, CompactRevision: r.CompactRevision, Canceled: r.Canceled, Created: r.Created,
	}
	for _, e := range r.Events {
		m.Events = append(m.Events, (*mvccpb.Event)(e))
	}
	return Result{
		simple: func(t *text) {
			for _, e := range m.Events {
				t.line(e.Type)
				if e.PrevKv != nil {
					simpleKV(t, e.PrevKv)
				}
				simpleKV(t, e.Kv)
			}
		},
		fields: func(t *text) {
			fieldsHeader(t, header)
			for _, e := range m.Events {
				t.field("Type", e.Type)
				if e.PrevKv != nil {
					fieldsKV(t, "Prev", e.PrevKv)
				}
				fieldsKV(t, "", e.Kv)
			}
		},
		json:  r,
		proto: m,
	}
}

func simpleKV(t *text, kv *mvccpb.KeyValue) {
	if !t.valueOnly {
		t.bytes(kv.Key)
	}
	t.bytes(kv.Value)
}

func simpleRange(t *text, m *pb.RangeResponse) {
	for _, kv := range m.Kvs {
		simpleKV(t, kv)
	}
}

func simplePut(t *text, m *pb.PutResponse) {
	t.line("OK")
	if m.PrevKv != nil {
		simpleKV(t, m.PrevKv)
	}
}

func simpleDelete(t *text, m *pb.DeleteRangeResponse) {
	t.line(m.Deleted)
	for _, kv := range m.PrevKvs {
		simpleKV(t, kv)
	}
}

func simpleTxn(t *text, m *pb.TxnResponse) {
	if m.Succeeded {
		t.line("SUCCESS")
	} else {
		t.line("FAILURE")
	}
	for _, op := range m.Responses {
		t.line()
		switch op := op.Response.(type) {
		case *pb.ResponseOp_ResponseDeleteRange:
			simpleDelete(t, op.ResponseDeleteRange)
		case *pb.ResponseOp_ResponsePut:
			simplePut(t, op.ResponsePut)
		case *pb.ResponseOp_ResponseRange:
			simpleRange(t, op.ResponseRange)
		default:
			t.printf("unexpected response %+v\n", op)
		}
	}
}

// fieldsHeader leaves the revision out when there is none, as in answers about members.
func fieldsHeader(t *text, h *pb.ResponseHeader) {
	t.id("ClusterID", h.GetClusterId())
	t.id("MemberID", h.GetMemberId())
	if h.GetRevision() != 0 {
		t.field("Revision", h.GetRevision())
	}
	t.field("RaftTerm", h.GetRaftTerm())
}

func fieldsKV(t *text, prefix string, kv *mvccpb.KeyValue) {
	t.quoted(prefix+"Key", kv.Key)
	t.field(prefix+"CreateRevision", kv.CreateRevision)
	t.field(prefix+"ModRevision", kv.ModRevision)
	t.field(prefix+"Version", kv.Version)
	t.quoted(prefix+"Value", kv.Value)
	t.lease(prefix+"Lease", kv.Lease)
}

func fieldsRange(t *text, m *pb.RangeResponse) {
	fieldsHeader(t, m.Header)
	for _, kv := range m.Kvs {
		fieldsKV(t, "", kv)
	}
	t.field("More", m.More)
	t.field("Count", m.Count)
}

func fieldsPut(t *text, m *pb.PutResponse) {
	fieldsHeader(t, m.Header)
	if m.PrevKv != nil {
		fieldsKV(t, "Prev", m.PrevKv)
	}
}

func fieldsDelete(t *text, m *pb.DeleteRangeResponse) {
	fieldsHeader(t, m.Header)
	t.field("Deleted", m.Deleted)
	for _, kv := range m.PrevKvs {
		fieldsKV(t, "Prev", kv)
	}
}

// fieldsTxn writes operations in their order; unlike the transaction's own
// header, theirs has only a revision.
func fieldsTxn(t *text, m *pb.TxnResponse) {
	fieldsHeader(t, m.Header)
	t.field("Succeeded", m.Succeeded)
	for _, op := range m.Responses {
		switch op := op.Response.(type) {
		case *pb.ResponseOp_ResponseDeleteRange:
			fieldsDelete(t, op.ResponseDeleteRange)
		case *pb.ResponseOp_ResponsePut:
			fieldsPut(t, op.ResponsePut)
		case *pb.ResponseOp_ResponseRange:
			fieldsRange(t, op.ResponseRange)
		default:
			t.quoted("Unknown", fmt.Sprintf("%+v", op))
		}
	}
}
