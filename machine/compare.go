package machine

import (
	"bytes"
	"cmp"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/mvcc"
)

// record is what a compare looks at in a key.
type record struct {
	value                       []byte
	create, mod, version, lease int64
}

func decodeRecord(raw []byte) record {
	kv := decodeKV(raw)
	return record{kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease}
}

// holds evaluates one compare. With a range end every key of the interval must
// satisfy it; an interval without keys is like a key that is missing, which is all
// zero, but has no value: no operator is true of that.
func holds(v view, c *pb.Compare) bool {
	missing := c.GetTarget() != pb.Compare_VALUE && verdict(c, record{})
	if len(c.GetRangeEnd()) == 0 {
		r, ok := v.lookup(c.GetKey())
		if !ok {
			return missing
		}
		return verdict(c, r)
	}
	res, err := v.Range(mvcc.RangeOptions{Key: c.Key, End: c.RangeEnd})
	if err != nil || len(res.KVs) == 0 {
		return missing
	}
	for _, raw := range res.KVs {
		if !verdict(c, decodeRecord(raw)) {
			return false
		}
	}
	return true
}

// verdict compares what is there with what is asked; a target that is unset asks for
// zero, and one that is not known is equal, as in etcd.
func verdict(c *pb.Compare, r record) bool {
	var order int
	switch c.GetTarget() {
	case pb.Compare_VALUE:
		order = bytes.Compare(r.value, c.GetValue())
	case pb.Compare_CREATE:
		order = cmp.Compare(r.create, c.GetCreateRevision())
	case pb.Compare_MOD:
		order = cmp.Compare(r.mod, c.GetModRevision())
	case pb.Compare_VERSION:
		order = cmp.Compare(r.version, c.GetVersion())
	case pb.Compare_LEASE:
		order = cmp.Compare(r.lease, c.GetLease())
	}
	switch c.GetResult() {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_NOT_EQUAL:
		return order != 0
	case pb.Compare_GREATER:
		return order > 0
	case pb.Compare_LESS:
		return order < 0
	}
	return true
}
