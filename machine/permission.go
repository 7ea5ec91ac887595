package machine

import (
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// The may functions ask what apply asks (interop 7.4). user and rev come from the
// request's header; with authentication off all of them answer nil.

func (m *Machine) mayPut(user string, rev uint64, r *pb.PutRequest) error {
	if !m.auth.Enabled() {
		return nil
	}
	if err := m.auth.Check(user, rev, r.Key, nil, authpb.WRITE); err != nil {
		return err
	}
	if r.Lease != 0 {
		if err := m.mayTouchLease(user, rev, r.Lease); err != nil {
			return err
		}
	}
	if r.PrevKv {
		return m.auth.Check(user, rev, r.Key, nil, authpb.READ)
	}
	return nil
}

// mayTouchLease demands write permission on every key of the lease: who hangs a key
// on it or revokes it decides about all of them.
func (m *Machine) mayTouchLease(user string, rev uint64, id int64) error {
	if !m.auth.Enabled() || m.auth.CheckAdmin(user) == nil {
		return nil
	}
	_, keys, _ := m.leases.Lookup(id)
	for _, key := range keys {
		if err := m.auth.Check(user, rev, key, nil, authpb.WRITE); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) mayDelete(user string, rev uint64, r *pb.DeleteRangeRequest) error {
	if !m.auth.Enabled() {
		return nil
	}
	if err := m.auth.Check(user, rev, r.Key, r.RangeEnd, authpb.WRITE); err != nil {
		return err
	}
	if r.PrevKv {
		return m.auth.Check(user, rev, r.Key, r.RangeEnd, authpb.READ)
	}
	return nil
}

// mayTxn checks both branches, whichever will be taken. With strip the ranges at the
// top are left out, and what they would be refused with is returned beside.
func (m *Machine) mayTxn(user string, rev uint64, r *pb.TxnRequest, strip bool) (refused, err error) {
	if !m.auth.Enabled() {
		return nil, nil
	}
	for _, c := range r.Compare {
		if err := m.auth.Check(user, rev, c.GetKey(), c.GetRangeEnd(), authpb.READ); err != nil {
			return nil, err
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			err := m.mayOp(user, rev, op)
			if err != nil && strip && op.GetRequestRange() != nil {
				refused, err = err, nil
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return refused, nil
}

func (m *Machine) mayOp(user string, rev uint64, op *pb.RequestOp) error {
	switch r := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return m.auth.Check(user, rev, r.RequestRange.GetKey(), r.RequestRange.GetRangeEnd(), authpb.READ)
	case *pb.RequestOp_RequestPut:
		return m.mayPut(user, rev, r.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return m.mayDelete(user, rev, r.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		_, err := m.mayTxn(user, rev, r.RequestTxn, false)
		return err
	}
	return nil
}

// CheckPut tells what the apply of r would refuse now because of permissions. An
// originator asks before it proposes, so that nothing of ours is refused by some
// members only. Any goroutine may call it.
func (m *Machine) CheckPut(h *pb.RequestHeader, r *pb.PutRequest) error {
	return m.mayPut(h.GetUsername(), h.GetAuthRevision(), r)
}

// CheckDeleteRange is CheckPut for a delete.
func (m *Machine) CheckDeleteRange(h *pb.RequestHeader, r *pb.DeleteRangeRequest) error {
	return m.mayDelete(h.GetUsername(), h.GetAuthRevision(), r)
}

// CheckLeaseRevoke is CheckPut for the end of a lease.
func (m *Machine) CheckLeaseRevoke(h *pb.RequestHeader, r *pb.LeaseRevokeRequest) error {
	return m.mayTouchLease(h.GetUsername(), h.GetAuthRevision(), r.ID)
}

// CheckTxn tells what the apply of r would refuse now because of permissions or of
// revisions that its ranges name.
func (m *Machine) CheckTxn(h *pb.RequestHeader, r *pb.TxnRequest) error {
	if _, err := m.mayTxn(h.GetUsername(), h.GetAuthRevision(), r, false); err != nil {
		return err
	}
	if !namesRevision(r) {
		return nil
	}
	at := m.pin()
	path := choose(at, r, nil)
	return m.checkRanges(r, &path, at)
}

// namesRevision reports whether any range of r, nested ones too, is not at the
// current revision.
func namesRevision(r *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range ops {
			if op.GetRequestRange().GetRevision() != 0 {
				return true
			}
			if nested := op.GetRequestTxn(); nested != nil && namesRevision(nested) {
				return true
			}
		}
	}
	return false
}
