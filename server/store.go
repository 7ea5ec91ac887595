package server

import (
	"runtime"
	"sync/atomic"

	"theseus/api"
	"theseus/backend"
	"theseus/machine"
)

// store is the backend and the machine over it: what a received snapshot replaces
// as a whole. Readers hold it while they use it, so that the old one is closed only
// when the last of them has gone.
type store struct {
	be   *backend.Backend
	mach *machine.Machine

	// refs counts holders, the server itself included. At 0 the backend is closed.
	refs   atomic.Int64
	closed chan error // gets what Close said
}

func newStore(be *backend.Backend, m *machine.Machine) *store {
	st := &store{be: be, mach: m, closed: make(chan error, 1)}
	st.refs.Store(1)
	return st
}

// acquire takes hold of the present store; the caller owes a release. It fails with
// api.ErrStopped once the member has closed it for good.
func (s *Server) acquire() (*store, error) {
	for {
		st := s.store.Load()
		if st.hold() {
			return st, nil
		}
		if s.closed.Load() {
			return nil, api.ErrStopped
		}
		runtime.Gosched() // a received snapshot is just taking its place
	}
}

// hold fails when the store is closed, or just being.
func (st *store) hold() bool {
	for {
		n := st.refs.Load()
		if n == 0 {
			return false
		}
		if st.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release gives the store back; the last one closes its backend.
func (st *store) release() {
	if st.refs.Add(-1) == 0 {
		st.closed <- st.be.Close()
	}
}
