package machine

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"theseus/api"
)

// What a request costs of the file, as etcd estimates it (interop 7.6).
const (
	costPut        = 256
	costLeaseGrant = 64
)

func putCost(r *pb.PutRequest) int64 { return costPut + int64(len(r.Key)) + int64(len(r.Value)) }

// txnCost is that of the branch that costs more.
func txnCost(r *pb.TxnRequest) int64 { return max(opsCost(r.Success), opsCost(r.Failure)) }

func opsCost(ops []*pb.RequestOp) (cost int64) {
	for _, op := range ops {
		if put := op.GetRequestPut(); put != nil {
			cost += putCost(put)
		} else if nested := op.GetRequestTxn(); nested != nil {
			cost += txnCost(nested)
		}
	}
	return cost
}

// QuotaAvailable reports whether a request (put, txn or lease grant; others always
// do) fits below the quota. Any goroutine may ask.
func (m *Machine) QuotaAvailable(r proto.Message) bool {
	switch r := r.(type) {
	case *pb.PutRequest:
		return m.fits(putCost(r))
	case *pb.TxnRequest:
		return m.fits(txnCost(r))
	case *pb.LeaseGrantRequest:
		return m.fits(costLeaseGrant)
	}
	return true
}

func (m *Machine) fits(cost int64) bool {
	return cost == 0 || m.o.QuotaBytes < 0 || m.o.DBSize()+cost < m.o.QuotaBytes
}

// noteSpace replaces the answer of a request that was carried out although it did
// not fit. The size of a file is no replicated state: only the alarm that the effect
// asks for stops the writes, on all members at the same entry.
func (m *Machine) noteSpace(c *call, fits bool) {
	if fits {
		return
	}
	c.res.Resp, c.res.Err = nil, api.ErrNoSpace
	if !m.alarms.raised(pb.AlarmType_NOSPACE) {
		c.effect(NoSpace{})
	}
}

// gate refuses what the raised alarms forbid: CORRUPT everything about keys and
// leases, NOSPACE what takes space.
func (m *Machine) gate(takesSpace bool) error {
	if m.alarms.raised(pb.AlarmType_CORRUPT) {
		return api.ErrCorrupt
	}
	if takesSpace && m.alarms.raised(pb.AlarmType_NOSPACE) {
		return api.ErrNoSpace
	}
	return nil
}
