package machine

import (
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
	"theseus/mvcc"
)

// pinned is the keys at one revision, beside a writer that goes on.
type pinned struct {
	kv  *mvcc.Store
	rev int64
	// gone is set when the revision was compacted meanwhile: begin again.
	gone bool
}

func (m *Machine) pin() *pinned {
	rev, _ := m.kv.Revision()
	return &pinned{kv: m.kv, rev: rev}
}

// lookup reads one key: most often the newest value is the one.
func (p *pinned) lookup(key []byte) (record, bool) {
	if kv, ok := p.kv.Get(key); ok && kv.Mod <= p.rev {
		return record{kv.Value(), kv.Create, kv.Mod, kv.Version, kv.Lease}, true
	}
	res, err := p.Range(mvcc.RangeOptions{Key: key})
	if err != nil || len(res.KVs) == 0 {
		return record{}, false
	}
	return decodeRecord(res.KVs[0]), true
}

// Range reads at the pinned revision, or at the older one that o names.
func (p *pinned) Range(o mvcc.RangeOptions) (mvcc.RangeResult, error) {
	current := o.Rev <= 0
	if current {
		o.Rev = p.rev
	}
	res, err := p.kv.Range(o)
	if current && errors.Is(err, api.ErrCompacted) {
		p.gone = true
	}
	res.Rev = p.rev
	return res, err
}

// ReadTxn runs a transaction that writes nothing, at one revision. An operation that
// writes is the caller's mistake and panics. Any goroutine may call it.
func (m *Machine) ReadTxn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	for {
		at := m.pin()
		path := choose(at, r, nil)
		resp, err := m.readTxn(r, path, at)
		if !at.gone {
			return resp, err
		}
	}
}

func (m *Machine) readTxn(r *pb.TxnRequest, path []bool, at *pinned) (*pb.TxnResponse, error) {
	rest := path
	if err := m.checkRanges(r, &rest, at); err != nil {
		return nil, err
	}
	resp, err := runRanges(r, &path, at)
	if err != nil {
		return nil, err
	}
	resp.Header.Revision = at.rev
	return resp, nil
}

// checkRanges tells whether the chosen ranges name revisions that can be read.
func (m *Machine) checkRanges(r *pb.TxnRequest, path *[]bool, at *pinned) error {
	_, compacted := m.kv.Revision()
	for _, op := range branch(r, next(path)) {
		if nested := op.GetRequestTxn(); nested != nil {
			if err := m.checkRanges(nested, path, at); err != nil {
				return err
			}
		}
		if err := checkRevision(op.GetRequestRange().GetRevision(), at.rev, compacted); err != nil {
			return err
		}
	}
	return nil
}

func runRanges(r *pb.TxnRequest, path *[]bool, at *pinned) (*pb.TxnResponse, error) {
	ok := next(path)
	resp := &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: ok}
	for _, op := range branch(r, ok) {
		switch q := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			res, err := at.Range(rangeOptions(q.RequestRange))
			if err != nil {
				return nil, err
			}
			resp.Responses = append(resp.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: rangeResponse(res)}})
		case *pb.RequestOp_RequestTxn:
			nested, err := runRanges(q.RequestTxn, path, at)
			if err != nil {
				return nil, err
			}
			resp.Responses = append(resp.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: nested}})
		default:
			panic("machine: ReadTxn of a transaction that writes")
		}
	}
	return resp, nil
}
