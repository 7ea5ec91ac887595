package server

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
	"theseus/mvcc"
	"theseus/version"
)

// heavyLimit is how many keys a range may return to be read where it was confirmed;
// a larger one gets a goroutine, so that it does not hold up others.
const heavyLimit = 128

// StartPut proposes a put. raw is r encoded, as it came, if those bytes are plain
// (api.UnmarshalPlain), else nil; both must not change any more. The request must
// have passed rpc's validation.
func (s *Server) StartPut(c Credentials, r *pb.PutRequest, raw []byte, w Waiter) {
	if s.authOn() {
		s.later(c, w, func(ctx context.Context) Outcome { return outcome(s.Put(ctx, r, raw)) })
		return
	}
	if err := s.admitPut(r); err != nil {
		w.Done(Outcome{Err: err})
		return
	}
	s.propose(&pb.RequestHeader{}, fieldPut, encoded(r, raw), w)
}

// Put writes one key. raw may be nil; r is encoded then.
func (s *Server) Put(ctx context.Context, r *pb.PutRequest, raw []byte) (*pb.PutResponse, error) {
	if err := s.admitPut(r); err != nil {
		return nil, err
	}
	m, err := s.request(ctx, fieldPut, encoded(r, raw), func(st *store, h *pb.RequestHeader) error {
		return st.mach.CheckPut(h, r)
	})
	return answer[*pb.PutResponse](m, err)
}

// admitPut is what a put must pass before it is proposed, whoever asks.
func (s *Server) admitPut(r *pb.PutRequest) error {
	if err := s.admit(); err != nil {
		return err
	}
	if (r.IgnoreValue || r.IgnoreLease) && !s.allowed(version.IgnoreValueLease) {
		return api.ErrNotCapable
	}
	return s.admitSpace(r)
}

// StartDeleteRange proposes a delete; see StartPut for raw.
func (s *Server) StartDeleteRange(c Credentials, r *pb.DeleteRangeRequest, raw []byte, w Waiter) {
	if s.authOn() {
		s.later(c, w, func(ctx context.Context) Outcome { return outcome(s.DeleteRange(ctx, r, raw)) })
		return
	}
	if err := s.admit(); err != nil {
		w.Done(Outcome{Err: err})
		return
	}
	s.propose(&pb.RequestHeader{}, fieldDeleteRange, encoded(r, raw), w)
}

// DeleteRange deletes keys.
func (s *Server) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest, raw []byte) (*pb.DeleteRangeResponse, error) {
	m, err := s.request(ctx, fieldDeleteRange, encoded(r, raw), func(st *store, h *pb.RequestHeader) error {
		return st.mach.CheckDeleteRange(h, r)
	})
	return answer[*pb.DeleteRangeResponse](m, err)
}

// StartRange reads, after a read-index round unless r is serializable.
func (s *Server) StartRange(c Credentials, r *pb.RangeRequest, w Waiter) {
	if s.authOn() {
		s.later(c, w, func(ctx context.Context) Outcome { res, err := s.Range(ctx, r); return Outcome{Range: res, Err: err} })
		return
	}
	x := rangeCalls.Get().(*rangeCall)
	*x = rangeCall{s: s, r: r, w: w}
	if r.Serializable {
		x.ready(nil)
		return
	}
	s.reads.add(x)
}

// rangeCall is a range that waits for its read index.
type rangeCall struct {
	s *Server
	r *pb.RangeRequest
	w Waiter
}

var rangeCalls = sync.Pool{New: func() any { return new(rangeCall) }}

func (x *rangeCall) ready(err error) {
	switch {
	case err != nil:
		x.w.Done(Outcome{Err: err})
	case len(x.r.RangeEnd) > 0 && !x.r.CountOnly && (x.r.Limit <= 0 || x.r.Limit > heavyLimit):
		if x.s.tasks.Go(x.read) {
			return
		}
		x.w.Done(Outcome{Err: api.ErrStopped})
	default:
		x.read()
		return
	}
	*x = rangeCall{}
	rangeCalls.Put(x)
}

func (x *rangeCall) read() {
	res, err := x.s.read(x.r)
	w := x.w
	*x = rangeCall{}
	rangeCalls.Put(x)
	w.Done(Outcome{Range: res, Err: err})
}

// Range reads keys. RangeStream of rpc pins a revision with it and pages.
func (s *Server) Range(ctx context.Context, r *pb.RangeRequest) (RangeResult, error) {
	if !r.Serializable {
		if err := s.LinearizableReadNotify(ctx); err != nil {
			return RangeResult{}, err
		}
	}
	var res RangeResult
	err := s.reading(ctx, func(st *store, h *pb.RequestHeader) error {
		return st.mach.Auth().Check(h.Username, h.AuthRevision, r.Key, r.RangeEnd, authpb.READ)
	}, func() (err error) { res, err = s.read(r); return err })
	return res, err
}

// read reads local state as it is now.
func (s *Server) read(r *pb.RangeRequest) (RangeResult, error) {
	if err := s.fenceError(); err != nil {
		return RangeResult{}, err
	}
	st, err := s.acquire()
	if err != nil {
		return RangeResult{}, err
	}
	defer st.release()
	start := time.Now()
	res, err := st.mach.KV().Range(mvcc.RangeOptions{
		Key: r.Key, End: r.RangeEnd, Rev: r.Revision, Limit: r.Limit,
		CountOnly: r.CountOnly, KeysOnly: r.KeysOnly, SortTarget: r.SortTarget, SortOrder: r.SortOrder,
		MinMod: r.MinModRevision, MaxMod: r.MaxModRevision, MinCreate: r.MinCreateRevision, MaxCreate: r.MaxCreateRevision,
	})
	s.metrics.ranges.Inc()
	s.metrics.ranged(err == nil, time.Since(start))
	return RangeResult{KVs: res.KVs, Count: res.Count, More: res.More, Rev: res.Rev}, err
}

// reading runs fn if check allows who asks, and again when permissions changed while
// it ran.
func (s *Server) reading(ctx context.Context, check func(st *store, h *pb.RequestHeader) error, fn func() error) error {
	for {
		h, err := s.identify(ctx, credentials(ctx))
		if err != nil {
			return err
		}
		if err = s.holding(func(st *store) error { return check(st, h) }); err == nil {
			err = fn()
		}
		if h.AuthRevision == 0 || s.authRevision() == h.AuthRevision {
			return err
		}
		if !credentials(ctx).renewable() {
			return api.ErrAuthOldRevision
		}
	}
}

// holding runs fn over the present store.
func (s *Server) holding(fn func(st *store) error) error {
	st, err := s.acquire()
	if err != nil {
		return err
	}
	defer st.release()
	return fn(st)
}

// StartTxn proposes a transaction, or reads when it writes nothing; see StartPut for raw.
func (s *Server) StartTxn(c Credentials, r *pb.TxnRequest, raw []byte, w Waiter) {
	if s.authOn() {
		s.later(c, w, func(ctx context.Context) Outcome { return outcome(s.Txn(ctx, r, raw)) })
		return
	}
	if writes, local := txnKind(r); !writes {
		x := &txnCall{s: s, r: r, w: w}
		if local {
			x.ready(nil)
		} else {
			s.reads.add(x)
		}
		return
	}
	h := &pb.RequestHeader{}
	err := s.admitTxn(r)
	if err == nil {
		err = s.holding(func(st *store) error { return st.mach.CheckTxn(h, r) })
	}
	if err != nil {
		w.Done(Outcome{Err: err})
		return
	}
	s.propose(h, fieldTxn, encoded(r, raw), w)
}

// txnCall is a transaction without writes that waits for its read index.
type txnCall struct {
	s *Server
	r *pb.TxnRequest
	w Waiter
}

func (x *txnCall) ready(err error) {
	if err != nil {
		x.w.Done(Outcome{Err: err})
		return
	}
	switch {
	case !txnHeavy(x.r):
		x.read()
	case !x.s.tasks.Go(x.read):
		x.w.Done(Outcome{Err: api.ErrStopped})
	}
}

func (x *txnCall) read() {
	x.w.Done(outcome(x.s.readTxn(x.r)))
}

func (s *Server) readTxn(r *pb.TxnRequest) (resp *pb.TxnResponse, err error) {
	if err := s.fenceError(); err != nil {
		return nil, err
	}
	err = s.holding(func(st *store) error {
		resp, err = st.mach.ReadTxn(r)
		return err
	})
	s.metrics.txns.Inc()
	return resp, err
}

// Txn runs a transaction.
func (s *Server) Txn(ctx context.Context, r *pb.TxnRequest, raw []byte) (*pb.TxnResponse, error) {
	writes, local := txnKind(r)
	check := func(st *store, h *pb.RequestHeader) error { return st.mach.CheckTxn(h, r) }
	if writes {
		if err := s.admitTxn(r); err != nil {
			return nil, err
		}
		m, err := s.request(ctx, fieldTxn, encoded(r, raw), check)
		return answer[*pb.TxnResponse](m, err)
	}
	if !local {
		if err := s.LinearizableReadNotify(ctx); err != nil {
			return nil, err
		}
	}
	var resp *pb.TxnResponse
	err := s.reading(ctx, check, func() (err error) { resp, err = s.readTxn(r); return err })
	if err != nil {
		return nil, err
	}
	s.complete(resp)
	return resp, nil
}

func (s *Server) admitTxn(r *pb.TxnRequest) error {
	if err := s.admit(); err != nil {
		return err
	}
	for f := range txnFeatures(r) {
		if !s.allowed(f) {
			return api.ErrNotCapable
		}
	}
	return s.admitSpace(r)
}

// Compact drops old revisions; with r.Physical it waits until they are gone here.
func (s *Server) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	m, err := s.request(ctx, fieldCompaction, encoded(r, nil), func(st *store, h *pb.RequestHeader) error {
		return st.mach.Auth().CheckAdmin(h.Username)
	})
	if err != nil {
		return nil, err
	}
	if r.Physical {
		if err := s.compaction.wait(ctx, r.Revision); err != nil {
			return nil, err
		}
	}
	return answer[*pb.CompactionResponse](m, nil)
}
