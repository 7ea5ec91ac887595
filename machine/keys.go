package machine

import (
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/mvcc"
)

// putAnswer is a put's answer with its header: one allocation for both.
type putAnswer struct {
	resp   pb.PutResponse
	header pb.ResponseHeader
}

func (a *putAnswer) fill(rev int64, withPrev bool, prev mvcc.KV) {
	a.header.Revision = rev
	a.resp.Header = &a.header
	if withPrev {
		a.resp.PrevKv = decodeKV(prev.Raw)
	}
}

func (m *Machine) putKey(c *call) error {
	r := &m.put
	if err := api.Unmarshal(c.body, r); err != nil {
		return err
	}
	cost := putCost(r)
	if err := m.gate(true); err != nil {
		return c.refuse(err)
	}
	if err := m.mayPut(c.user, c.rev, r); err != nil {
		return c.refuse(err)
	}
	fits := m.fits(cost)
	if r.Lease != 0 && !m.leases.Exists(r.Lease) {
		return c.refuse(api.ErrLeaseNotFound)
	}
	t := m.kv.Begin()
	if r.IgnoreValue || r.IgnoreLease {
		if _, ok := t.Get(r.Key); !ok {
			t.End()
			return c.refuse(api.ErrKeyNotFound)
		}
	}
	prev, rev := m.writePut(t, r)
	c.res.Events = t.End()
	if c.mine {
		a := &putAnswer{}
		a.fill(rev, r.PrevKv, prev)
		c.res.Resp = &a.resp
	}
	m.noteSpace(c, fits)
	return nil
}

// writePut is a put whose conditions are met: the value, and the lease it hangs on.
func (m *Machine) writePut(t *mvcc.Txn, r *pb.PutRequest) (prev mvcc.KV, rev int64) {
	value, lease := r.Value, r.Lease
	if r.IgnoreValue || r.IgnoreLease {
		kv, _ := t.Get(r.Key)
		if r.IgnoreValue {
			value = kv.Value()
		}
		if r.IgnoreLease {
			lease = kv.Lease
		}
	}
	prev, rev = t.Put(r.Key, value, lease)
	switch {
	case lease == prev.Lease:
	case lease != 0:
		m.leases.Attach(lease, prevKey(prev, r.Key))
	default:
		m.leases.Detach(r.Key)
	}
	return prev, rev
}

// prevKey is the key in bytes that outlive the entry, if there are any.
func prevKey(prev mvcc.KV, key []byte) []byte {
	if prev.Raw != nil {
		return prev.Key()
	}
	return key
}

func (m *Machine) deleteRange(c *call) error {
	r := &m.del
	if err := api.Unmarshal(c.body, r); err != nil {
		return err
	}
	if err := m.gate(false); err != nil {
		return c.refuse(err)
	}
	if err := m.mayDelete(c.user, c.rev, r); err != nil {
		return c.refuse(err)
	}
	t := m.kv.Begin()
	resp := m.writeDelete(t, r, c.mine)
	c.res.Events = t.End()
	if c.mine {
		c.res.Resp = resp
	}
	return nil
}

// writeDelete deletes, and takes the keys off their leases. Without a caller there
// is no answer.
func (m *Machine) writeDelete(t *mvcc.Txn, r *pb.DeleteRangeRequest, mine bool) *pb.DeleteRangeResponse {
	n := t.DeleteRange(r.Key, r.RangeEnd)
	if n > 0 {
		for i := range t.Deleted {
			if e := &t.Deleted[i]; e.PrevLease != 0 {
				m.leases.Detach(e.Key)
			}
		}
	}
	if !mine {
		return nil
	}
	resp := &pb.DeleteRangeResponse{Header: &pb.ResponseHeader{Revision: t.Rev()}, Deleted: n}
	if r.PrevKv && n > 0 {
		resp.PrevKvs = make([]*mvccpb.KeyValue, n)
		for i := range t.Deleted {
			resp.PrevKvs[i] = decodeKV(t.Deleted[i].Prev)
		}
	}
	return resp
}

// rangeKeys is a range that somebody put in the log; etcd 3 reads without.
func (m *Machine) rangeKeys(c *call) error {
	var r pb.RangeRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	if err := m.gate(false); err != nil {
		return c.refuse(err)
	}
	if err := m.auth.Check(c.user, c.rev, r.Key, r.RangeEnd, authpb.READ); err != nil {
		return c.refuse(err)
	}
	res, err := m.kv.Range(rangeOptions(&r))
	return c.answer(err, func() proto.Message { return rangeResponse(res) })
}

func (m *Machine) compact(c *call) error {
	var r pb.CompactionRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	if err := m.gate(false); err != nil {
		return c.refuse(err)
	}
	if err := m.kv.Compact(r.Revision); err != nil {
		return c.refuse(err)
	}
	c.effect(CompactionScheduled{Rev: r.Revision})
	return c.answer(nil, func() proto.Message { return &pb.CompactionResponse{Header: m.header()} })
}

// rangeOptions is the request as mvcc takes it.
func rangeOptions(r *pb.RangeRequest) mvcc.RangeOptions {
	return mvcc.RangeOptions{
		Key: r.Key, End: r.RangeEnd, Rev: r.Revision, Limit: r.Limit,
		CountOnly: r.CountOnly, KeysOnly: r.KeysOnly,
		SortTarget: r.SortTarget, SortOrder: r.SortOrder,
		MinMod: r.MinModRevision, MaxMod: r.MaxModRevision,
		MinCreate: r.MinCreateRevision, MaxCreate: r.MaxCreateRevision,
	}
}

// rangeResponse decodes the keys, since the answer of a transaction is a message.
func rangeResponse(res mvcc.RangeResult) *pb.RangeResponse {
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: res.Rev}, More: res.More, Count: res.Count}
	if len(res.KVs) == 0 {
		return resp
	}
	resp.Kvs = make([]*mvccpb.KeyValue, len(res.KVs))
	for i, raw := range res.KVs {
		resp.Kvs[i] = decodeKV(raw)
	}
	return resp
}

// decodeKV returns nil for nothing. The bytes come from mvcc, which made or checked them.
func decodeKV(raw []byte) *mvccpb.KeyValue {
	if raw == nil {
		return nil
	}
	kv := &mvccpb.KeyValue{}
	if err := api.DecodeKV(raw, kv); err != nil {
		panic("machine: mvcc returned a broken KeyValue: " + err.Error())
	}
	return kv
}
