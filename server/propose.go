package server

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/node"
)

// maxBacklog is how many committed entries may wait for their apply before new
// proposals are refused (interop 6.11).
const maxBacklog = 5000

// Fields of InternalRaftRequest (interop 6.2).
const (
	fieldPut             = 4
	fieldDeleteRange     = 5
	fieldTxn             = 6
	fieldCompaction      = 7
	fieldLeaseGrant      = 8
	fieldLeaseRevoke     = 9
	fieldAlarm           = 10
	fieldLeaseCheckpoint = 11

	fieldAuthEnable       = 1000
	fieldAuthDisable      = 1011
	fieldAuthenticate     = 1012
	fieldUserAdd          = 1100
	fieldUserDelete       = 1101
	fieldUserChange       = 1103
	fieldUserGrant        = 1104
	fieldUserRevoke       = 1105
	fieldRoleAdd          = 1200
	fieldRoleDelete       = 1201
	fieldRoleGrant        = 1203
	fieldRoleRevoke       = 1204
	fieldVersionSet       = 1300
	fieldMemberAttributes = 1301
	fieldDowngradeInfo    = 1302
)

// admit refuses what must not be proposed now, before anything is encoded.
func (s *Server) admit() error {
	if s.stopping.Load() {
		return api.ErrStopped
	}
	if err := s.fenceError(); err != nil {
		return err // the answer could tell what a key held
	}
	if s.node.Commit() > s.applied.Current()+maxBacklog {
		return api.ErrTooManyRequests
	}
	return nil
}

// propose makes an entry of an encoded body and hands it to raft; w is told when it
// is applied, or why it will not be. It returns the request's id, 0 if w was told.
func (s *Server) propose(h *pb.RequestHeader, field int, body []byte, w Waiter) uint64 {
	h.ID = s.ids.next()
	data := api.AppendInternal(make([]byte, 0, len(body)+len(h.Username)+48), field, body, h)
	if len(data) > int(s.o.MaxRequestBytes) {
		w.Done(Outcome{Err: api.ErrRequestTooLarge})
		return 0
	}
	return s.proposeData(h.ID, field, data, w)
}

// proposeData hands a finished entry to raft.
func (s *Server) proposeData(id uint64, field int, data []byte, w Waiter) uint64 {
	s.pending.add(id, waiting{w: w, since: time.Now(), field: field})
	if err := s.node.Propose(data); err != nil {
		s.fail(id, err)
		return 0
	}
	return id
}

// fail tells who waits for the request that raft did not take it.
func (s *Server) fail(id uint64, err error) {
	x, ok := s.pending.take(id)
	if !ok {
		return
	}
	s.metrics.proposalsFailed.Inc()
	x.w.Done(Outcome{Err: s.raftError(err)})
}

// raftError turns an error of the raft loop into what a client sees.
func (s *Server) raftError(err error) error {
	switch {
	case s.stopping.Load():
		return api.ErrStopped
	case errors.Is(err, node.ErrBusy):
		return api.ErrTooManyRequests
	case errors.Is(err, node.ErrStopped):
		return api.ErrStopped
	default:
		return err
	}
}

// request proposes in the name of who asks and waits for the answer. check is
// asked, with the header that will be in the entry, before it is proposed; it may
// be nil. body must not change afterwards.
func (s *Server) request(ctx context.Context, field int, body []byte, check func(st *store, h *pb.RequestHeader) error) (proto.Message, error) {
	for {
		h, err := s.identify(ctx, credentials(ctx))
		if err != nil {
			return nil, err
		}
		rev := h.AuthRevision
		o := s.requestAs(ctx, h, field, body, check)
		if o.Err == api.ErrAuthOldRevision && s.authRevision() != rev && credentials(ctx).renewable() {
			continue // something changed between the look at the token and the apply
		}
		return o.Resp, o.Err
	}
}

// requestAs proposes under a header and waits.
func (s *Server) requestAs(ctx context.Context, h *pb.RequestHeader, field int, body []byte, check func(st *store, h *pb.RequestHeader) error) Outcome {
	if err := s.admit(); err != nil {
		return Outcome{Err: err}
	}
	if check != nil {
		st, err := s.acquire()
		if err != nil {
			return Outcome{Err: err}
		}
		err = check(st, h)
		st.release()
		if err != nil {
			return Outcome{Err: err}
		}
	}
	c := newCall()
	id := s.propose(h, field, body, c)
	return s.await(ctx, id, c)
}

// await waits for a proposed request and completes the header of its answer.
func (s *Server) await(ctx context.Context, id uint64, c *call) Outcome {
	since := time.Now()
	o, ok := c.wait(ctx)
	if !ok {
		s.pending.take(id)
		s.metrics.proposalsFailed.Inc()
		return Outcome{Err: s.contextError(ctx, since)}
	}
	if o.Resp != nil {
		s.complete(o.Resp)
	}
	return o
}

// contextError is what a client is told whose context ended while it waited.
func (s *Server) contextError(ctx context.Context, since time.Time) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return api.ErrCanceled
	}
	return s.timeoutError(since)
}

// timeoutError says why a request that began at since was not answered in time.
func (s *Server) timeoutError(since time.Time) error {
	elected := s.lead.electedSince()
	if since.Before(elected) && since.After(elected.Add(-2*s.o.electionTimeout())) {
		return api.ErrTimeoutDueToLeaderFail
	}
	switch lead := s.Leader(); {
	case lead == 0:
		return api.ErrTimeout
	case lead == s.id && !s.quorumSince(since), lead != s.id && !s.connectedSince(lead, since):
		return api.ErrTimeoutDueToConnectionLost
	default:
		return api.ErrTimeout
	}
}

// complete fills the header of an answer; one without the field has none.
func (s *Server) complete(m proto.Message) {
	if x, ok := m.(interface{ GetHeader() *pb.ResponseHeader }); ok {
		if h := x.GetHeader(); h != nil {
			s.FillHeader(h)
			return
		}
	}
	r := m.ProtoReflect()
	if fd := r.Descriptor().Fields().ByName("header"); fd != nil {
		s.FillHeader(r.Mutable(fd).Message().Interface().(*pb.ResponseHeader))
	}
}

// encoded returns raw, or r encoded when the caller has no bytes that may become
// part of an entry.
func encoded(r proto.Message, raw []byte) []byte {
	if raw != nil {
		return raw
	}
	return api.Append(make([]byte, 0, api.Size(r)), r)
}
