package machine

import (
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
	"theseus/mvcc"
)

// A transaction is applied in four steps (interop 5.4), none of which looks at the
// effect of an operation before all are decided:
//
//  1. choose: which branch, in it and in every nested transaction, by the state
//     before. The choices stand in a list, in the order of a walk (a path).
//  2. check: what the chosen operations could fail of. Nothing is written if one does.
//  3. run: the operations in order, in one mvcc transaction.
//  4. answer.

// errUnknownOp is fatal: an operation that we do not know would make us differ from
// those who do. The API refuses one that is empty.
var errUnknownOp = errors.New("a transaction in it holds an operation that this version does not know")

// view is a state of the keys to decide by.
type view interface {
	lookup(key []byte) (record, bool)
	Range(o mvcc.RangeOptions) (mvcc.RangeResult, error)
}

// written is the view of the goroutine that applies.
type written struct{ *mvcc.Txn }

func (w written) lookup(key []byte) (record, bool) {
	kv, ok := w.Get(key)
	if !ok {
		return record{}, false
	}
	return record{kv.Value(), kv.Create, kv.Mod, kv.Version, kv.Lease}, true
}

func (m *Machine) txn(c *call) error {
	r := &m.txnRequest
	if err := api.Unmarshal(c.body, r); err != nil {
		return err
	}
	if !known(r) {
		return errUnknownOp
	}
	cost := txnCost(r)
	if err := m.gate(cost > 0); err != nil {
		return c.refuse(err)
	}
	strip := m.o.StripRanges() && !ReadOnly(r)
	refused, err := m.mayTxn(c.user, c.rev, r, strip)
	if err != nil {
		return c.refuse(err)
	}
	fits := m.fits(cost)
	t := m.kv.Begin()
	m.path = choose(written{t}, r, m.path[:0])
	stripped, err := m.check(written{t}, r, strip)
	if err != nil {
		t.End()
		return c.refuse(err)
	}
	refused = first(refused, stripped)
	path := m.path
	x := runner{m: m, t: t, answers: c.mine && refused == nil}
	resp := x.run(r, &path)
	rev := t.Rev()
	c.res.Events = t.End()
	if c.res.Err = refused; x.answers {
		resp.Header = &pb.ResponseHeader{Revision: rev}
		c.res.Resp = resp
	}
	m.noteSpace(c, fits)
	return nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// known reports whether every operation, of either branch, is one that we know.
func known(r *pb.TxnRequest) bool {
	for _, ops := range [...][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range ops {
			switch q := op.GetRequest().(type) {
			case *pb.RequestOp_RequestRange, *pb.RequestOp_RequestPut, *pb.RequestOp_RequestDeleteRange:
			case *pb.RequestOp_RequestTxn:
				if !known(q.RequestTxn) {
					return false
				}
			default:
				return false
			}
		}
	}
	return true
}

// ReadOnly reports whether a transaction is answered without the log, as etcd
// decides: all its operations, of both branches, are ranges. A nested transaction
// goes through the log even if it only reads.
func ReadOnly(r *pb.TxnRequest) bool {
	for _, ops := range [...][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range ops {
			if _, ok := op.GetRequest().(*pb.RequestOp_RequestRange); !ok {
				return false
			}
		}
	}
	return true
}

// choose appends the choices of r and of what is nested in the chosen branch.
func choose(v view, r *pb.TxnRequest, path []bool) []bool {
	ok := true
	for _, c := range r.GetCompare() {
		if ok = holds(v, c); !ok {
			break
		}
	}
	path = append(path, ok)
	for _, op := range branch(r, ok) {
		if nested := op.GetRequestTxn(); nested != nil {
			path = choose(v, nested, path)
		}
	}
	return path
}

func branch(r *pb.TxnRequest, ok bool) []*pb.RequestOp {
	if ok {
		return r.GetSuccess()
	}
	return r.GetFailure()
}

// next takes the next choice off the path.
func next(path *[]bool) bool {
	ok := (*path)[0]
	*path = (*path)[1:]
	return ok
}

// check returns what the chosen operations would fail of. With strip a range at the
// top fails for its caller only (trap 1): its error is returned beside.
func (m *Machine) check(v view, r *pb.TxnRequest, strip bool) (stripped, err error) {
	path := m.path
	current, compacted := m.kv.Revision()
	for _, op := range branch(r, next(&path)) {
		err := m.checkOp(v, op, &path, current, compacted)
		if err != nil && strip && op.GetRequestRange() != nil {
			stripped = first(stripped, err)
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	return stripped, nil
}

func (m *Machine) checkOp(v view, op *pb.RequestOp, path *[]bool, current, compacted int64) error {
	switch q := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return checkRevision(q.RequestRange.GetRevision(), current, compacted)
	case *pb.RequestOp_RequestPut:
		return m.checkPut(v, q.RequestPut)
	case *pb.RequestOp_RequestTxn:
		for _, op := range branch(q.RequestTxn, next(path)) {
			if err := m.checkOp(v, op, path, current, compacted); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkRevision(rev, current, compacted int64) error {
	switch {
	case rev == 0:
		return nil
	case rev > current:
		return api.ErrFutureRev
	case rev < compacted:
		return api.ErrCompacted
	}
	return nil
}

func (m *Machine) checkPut(v view, r *pb.PutRequest) error {
	if r.GetLease() != 0 && !m.leases.Exists(r.Lease) {
		return api.ErrLeaseNotFound
	}
	if r.GetIgnoreValue() || r.GetIgnoreLease() {
		if _, ok := v.lookup(r.Key); !ok {
			return api.ErrKeyNotFound
		}
	}
	return nil
}

// runner carries out checked operations. Without answers it makes none, and leaves
// ranges out: they change nothing.
type runner struct {
	m       *Machine
	t       *mvcc.Txn
	answers bool
}

// txnAnswer and putOpAnswer are answers with their parts: one allocation for all.
type txnAnswer struct {
	resp   pb.TxnResponse
	header pb.ResponseHeader
}

type putOpAnswer struct {
	op    pb.ResponseOp
	oneof pb.ResponseOp_ResponsePut
	put   putAnswer
}

func (x *runner) run(r *pb.TxnRequest, path *[]bool) *pb.TxnResponse {
	ok := next(path)
	ops := branch(r, ok)
	if !x.answers {
		for _, op := range ops {
			x.op(op, path)
		}
		return nil
	}
	// Header is present but empty below the top, as etcd's is.
	a := &txnAnswer{}
	resp := &a.resp
	resp.Header, resp.Succeeded, resp.Responses = &a.header, ok, make([]*pb.ResponseOp, len(ops))
	for i, op := range ops {
		resp.Responses[i] = x.op(op, path)
	}
	return resp
}

func (x *runner) op(op *pb.RequestOp, path *[]bool) *pb.ResponseOp {
	switch q := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		if x.answers {
			return x.rangeKeys(q.RequestRange)
		}
	case *pb.RequestOp_RequestPut:
		prev, rev := x.m.writePut(x.t, q.RequestPut)
		if x.answers {
			a := &putOpAnswer{}
			a.put.fill(rev, q.RequestPut.PrevKv, prev)
			a.oneof.ResponsePut, a.op.Response = &a.put.resp, &a.oneof
			return &a.op
		}
	case *pb.RequestOp_RequestDeleteRange:
		resp := x.m.writeDelete(x.t, q.RequestDeleteRange, x.answers)
		if x.answers {
			return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: resp}}
		}
	case *pb.RequestOp_RequestTxn:
		resp := x.run(q.RequestTxn, path)
		if x.answers {
			return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: resp}}
		}
	}
	return nil
}

func (x *runner) rangeKeys(r *pb.RangeRequest) *pb.ResponseOp {
	res, err := x.t.Range(rangeOptions(r))
	if err != nil {
		panic(fmt.Sprintf("machine: run a range that was checked: %v", err))
	}
	return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: rangeResponse(res)}}
}
