package rpc

import (
	"bytes"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
)

// This file holds the checks that etcd makes before a request goes anywhere
// (surface 1.2), in etcd's order.

func checkRange(r *pb.RangeRequest) error {
	if len(r.Key) == 0 {
		return api.ErrEmptyKey
	}
	if _, ok := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]; !ok {
		return api.ErrInvalidSortOption
	}
	if _, ok := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]; !ok {
		return api.ErrInvalidSortOption
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return api.ErrEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return api.ErrValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return api.ErrLeaseProvided
	}
	return nil
}

func checkDeleteRange(r *pb.DeleteRangeRequest) error {
	if len(r.Key) == 0 {
		return api.ErrEmptyKey
	}
	return nil
}

// checkTxn checks a transaction whole. maxOps bounds the longest of its lists; a
// nested transaction gets what its parent leaves.
func checkTxn(r *pb.TxnRequest, maxOps int) error {
	if err := checkTxnOps(r, maxOps); err != nil {
		return err
	}
	for _, branch := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		if _, err := changesOf(branch); err != nil {
			return err
		}
		if _, err := keepsNothing(branch, nil); err != nil {
			return err
		}
	}
	return nil
}

// keepsNothing refuses a put that keeps the value or lease of a key which an operation
// before it has deleted by "from this key on". For real members such an interval is
// empty when they look for duplicate keys, all keys when they delete, and the put is
// then an error that ends each of them, again at every start. deleted is the lowest key
// from which on all are gone, nil if there is none.
func keepsNothing(ops []*pb.RequestOp, deleted []byte) (_ []byte, err error) {
	lower := func(key []byte) {
		if deleted == nil || bytes.Compare(key, deleted) < 0 {
			deleted = key
		}
	}
	for _, op := range ops {
		switch x := op.GetRequest().(type) {
		case *pb.RequestOp_RequestDeleteRange:
			if d := x.RequestDeleteRange; len(d.RangeEnd) == 1 && d.RangeEnd[0] == 0 {
				lower(d.Key)
			}
		case *pb.RequestOp_RequestPut:
			p := x.RequestPut
			if (p.IgnoreValue || p.IgnoreLease) && deleted != nil && bytes.Compare(p.Key, deleted) >= 0 {
				return nil, api.ErrDuplicateKey
			}
		case *pb.RequestOp_RequestTxn:
			before := deleted
			for _, branch := range [2][]*pb.RequestOp{x.RequestTxn.Success, x.RequestTxn.Failure} {
				after, err := keepsNothing(branch, before)
				if err != nil {
					return nil, err
				}
				if after != nil {
					lower(after)
				}
			}
		}
	}
	return deleted, nil
}

func checkTxnOps(r *pb.TxnRequest, maxOps int) error {
	n := max(len(r.Compare), len(r.Success), len(r.Failure))
	if n > maxOps {
		return api.ErrTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.GetKey()) == 0 {
			return api.ErrEmptyKey
		}
	}
	for _, branch := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if err := checkOp(op, maxOps-n); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, maxOps int) error {
	switch x := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		if x.RequestRange != nil {
			return checkRange(x.RequestRange)
		}
	case *pb.RequestOp_RequestPut:
		if x.RequestPut != nil {
			return checkPut(x.RequestPut)
		}
	case *pb.RequestOp_RequestDeleteRange:
		if x.RequestDeleteRange != nil {
			return checkDeleteRange(x.RequestDeleteRange)
		}
	case *pb.RequestOp_RequestTxn:
		if x.RequestTxn != nil {
			return checkTxnOps(x.RequestTxn, maxOps)
		}
	}
	return api.ErrKeyNotFound
}

// changes are the keys that a branch may put, and the intervals it may delete.
type changes struct {
	puts map[string]struct{}
	dels intervals
}

// changesOf collects the changes of one branch, and refuses a key that is put twice
// or put and deleted. The branches of one nested transaction exclude each other and
// may touch the same keys; what they delete is held only against what comes after
// them. That order, and an interval whose end is not above its key counting as
// nothing, is what real members do (watched on 3.7).
func changesOf(ops []*pb.RequestOp) (changes, error) {
	var c changes
	if !conflictPossible(ops) {
		return c.plain(ops), nil
	}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			c.dels.add(d.Key, d.RangeEnd)
		}
	}
	for _, op := range ops {
		if t := op.GetRequestTxn(); t != nil {
			if err := c.nest(t); err != nil {
				return c, err
			}
		}
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			if err := c.put(string(p.Key), nil); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

// conflictPossible tells whether there is more than one operation that writes.
func conflictPossible(ops []*pb.RequestOp) bool {
	n := 0
	for _, op := range ops {
		switch op.GetRequest().(type) {
		case *pb.RequestOp_RequestTxn:
			return true
		case *pb.RequestOp_RequestPut, *pb.RequestOp_RequestDeleteRange:
			n++
		}
	}
	return n > 1
}

// plain collects the one change of a branch that cannot conflict.
func (c changes) plain(ops []*pb.RequestOp) changes {
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			c.puts = map[string]struct{}{string(p.Key): {}}
		}
		if d := op.GetRequestDeleteRange(); d != nil {
			c.dels.add(d.Key, d.RangeEnd)
		}
	}
	return c
}

// nest adds the changes of a nested transaction.
func (c *changes) nest(t *pb.TxnRequest) error {
	then, err := changesOf(t.Success)
	if err != nil {
		return err
	}
	otherwise, err := changesOf(t.Failure)
	if err != nil {
		return err
	}
	for key := range then.puts {
		if err := c.put(key, nil); err != nil {
			return err
		}
	}
	for key := range otherwise.puts {
		if err := c.put(key, then.puts); err != nil {
			return err
		}
	}
	c.dels.join(then.dels)
	c.dels.join(otherwise.dels)
	return nil
}

// put adds one key; being in except excuses it from having been put before.
func (c *changes) put(key string, except map[string]struct{}) error {
	if _, twice := c.puts[key]; twice {
		if _, fine := except[key]; !fine {
			return api.ErrDuplicateKey
		}
	}
	if c.dels.has(key) {
		return api.ErrDuplicateKey
	}
	if c.puts == nil {
		c.puts = map[string]struct{}{}
	}
	c.puts[key] = struct{}{}
	return nil
}

// intervals is a set of intervals [from, to) of keys.
type intervals struct {
	list   []interval // sorted and apart, unless mixed
	merged bool
}

type interval struct{ from, to []byte }

func (s *intervals) add(key, end []byte) {
	switch {
	case len(end) == 0:
		end = append(bytes.Clone(key), 0)
	case bytes.Compare(key, end) >= 0:
		return
	}
	s.list, s.merged = append(s.list, interval{key, end}), false
}

func (s *intervals) join(o intervals) {
	if len(o.list) > 0 {
		s.list, s.merged = append(s.list, o.list...), false
	}
}

// has tells whether key lies in one of the intervals.
func (s *intervals) has(key string) bool {
	s.merge()
	k := []byte(key)
	i, found := slices.BinarySearchFunc(s.list, k, func(v interval, k []byte) int { return bytes.Compare(v.from, k) })
	if found {
		return true
	}
	return i > 0 && bytes.Compare(k, s.list[i-1].to) < 0
}

// merge sorts the list and joins what overlaps.
func (s *intervals) merge() {
	if s.merged {
		return
	}
	s.merged = true
	slices.SortFunc(s.list, func(a, b interval) int { return bytes.Compare(a.from, b.from) })
	out := s.list[:0]
	for _, v := range s.list {
		if n := len(out); n > 0 && bytes.Compare(v.from, out[n-1].to) <= 0 {
			if bytes.Compare(v.to, out[n-1].to) > 0 {
				out[n-1].to = v.to
			}
			continue
		}
		out = append(out, v)
	}
	s.list = out
}
