package server

import (
	"iter"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/version"
)

// txnKind tells whether a transaction can write, and, when it cannot, whether all its
// reads are content with local state.
func txnKind(r *pb.TxnRequest) (writes, local bool) {
	ranges, serializable := 0, 0
	for op := range txnOps(r) {
		rng := op.GetRequestRange()
		switch {
		case rng != nil && rng.Serializable:
			serializable++
			fallthrough
		case rng != nil:
			ranges++
		case op.GetRequestTxn() == nil:
			return true, false
		}
	}
	return false, ranges > 0 && ranges == serializable
}

// txnHeavy tells whether a read takes long enough to get a goroutine.
func txnHeavy(r *pb.TxnRequest) bool {
	for op := range txnOps(r) {
		if x := op.GetRequestRange(); x != nil && len(x.RangeEnd) > 0 && !x.CountOnly && (x.Limit <= 0 || x.Limit > heavyLimit) {
			return true
		}
	}
	return false
}

// txnOps walks the operations of both branches, those of nested transactions included.
func txnOps(r *pb.TxnRequest) iter.Seq[*pb.RequestOp] {
	return func(yield func(*pb.RequestOp) bool) { walkOps(r, yield) }
}

func walkOps(r *pb.TxnRequest, yield func(*pb.RequestOp) bool) bool {
	for _, branch := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if !yield(op) {
				return false
			}
			if t := op.GetRequestTxn(); t != nil && !walkOps(t, yield) {
				return false
			}
		}
	}
	return true
}

// txnFeatures yields what a transaction uses that old members do not know.
func txnFeatures(r *pb.TxnRequest) iter.Seq[version.Feature] {
	return func(yield func(version.Feature) bool) {
		if !compareFeatures(r, yield) {
			return
		}
		for op := range txnOps(r) {
			switch t, p := op.GetRequestTxn(), op.GetRequestPut(); {
			case t != nil:
				if !yield(version.NestedTxn) || !compareFeatures(t, yield) {
					return
				}
			case p != nil && (p.IgnoreValue || p.IgnoreLease):
				if !yield(version.IgnoreValueLease) {
					return
				}
			}
		}
	}
}

func compareFeatures(r *pb.TxnRequest, yield func(version.Feature) bool) bool {
	for _, c := range r.Compare {
		if c.Target == pb.Compare_LEASE && !yield(version.LeaseCompare) {
			return false
		}
		if len(c.RangeEnd) > 0 && !yield(version.RangeCompare) {
			return false
		}
	}
	return true
}
