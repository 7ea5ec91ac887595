package server

import "sync/atomic"

// burst stands around a run of Waiters that are told in one go.
type burst struct{ hold, release func() }

// AroundAnswers sets what is called before and after many Waiters are told one after
// the other, which is when a batch of entries has been applied: rpc gathers the
// answers meanwhile and writes each connection's in one piece. Both must be quick.
func (s *Server) AroundAnswers(hold, release func()) {
	s.bursts.Store(&burst{hold: hold, release: release})
}

type bursts struct{ atomic.Pointer[burst] }

// begin starts a burst; the result, which may be nil, ends it.
func (b *bursts) begin() *burst {
	x := b.Load()
	if x != nil {
		x.hold()
	}
	return x
}

func (x *burst) end() {
	if x != nil {
		x.release()
	}
}
