package machine

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/lease"
	"theseus/version"
)

func (m *Machine) leaseGrant(c *call) error {
	var r pb.LeaseGrantRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	if err := m.gate(true); err != nil {
		return c.refuse(err)
	}
	fits := m.fits(costLeaseGrant)
	ttl, err := m.leases.Grant(r.ID, r.TTL)
	if err != nil {
		return c.refuse(err)
	}
	c.effect(LeaseGranted{Lease: lease.Lease{ID: r.ID, TTL: ttl}})
	if c.mine {
		c.res.Resp = &pb.LeaseGrantResponse{Header: m.header(), ID: r.ID, TTL: ttl}
	}
	m.noteSpace(c, fits)
	return nil
}

// leaseRevoke deletes the lease's keys in their order, in one transaction, so that
// every member gives them the same revisions.
func (m *Machine) leaseRevoke(c *call) error {
	var r pb.LeaseRevokeRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	if err := m.gate(false); err != nil {
		return c.refuse(err)
	}
	if err := m.mayTouchLease(c.user, c.rev, r.ID); err != nil {
		return c.refuse(err)
	}
	keys, err := m.leases.Revoke(r.ID)
	if err != nil {
		return c.refuse(err)
	}
	if len(keys) > 0 {
		t := m.kv.Begin()
		for _, key := range keys {
			t.DeleteRange(key, nil)
		}
		c.res.Events = t.End()
	}
	c.effect(LeaseRevoked{ID: r.ID})
	return c.answer(nil, func() proto.Message { return &pb.LeaseRevokeResponse{Header: m.header()} })
}

func (m *Machine) leaseCheckpoint(c *call) error {
	var r pb.LeaseCheckpointRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	cv, _ := m.members.Version()
	persist := m.o.PersistCheckpoints || version.PersistCheckpoint(cv)
	for _, one := range r.Checkpoints {
		if m.leases.Checkpoint(one.GetID(), one.GetRemaining_TTL(), persist) {
			c.effect(LeaseCheckpointed{ID: one.GetID(), Remaining: one.GetRemaining_TTL()})
		}
	}
	return c.answer(nil, func() proto.Message { return &pb.LeaseCheckpointResponse{Header: m.header()} })
}
