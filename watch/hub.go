package watch

import (
	"context"
	"sync"
	"sync/atomic"

	"theseus/api"
	"theseus/mvcc"
)

// Hub finds the watchers of every event.
type Hub struct {
	o          Options
	limits     limits
	eventsSent atomic.Int64

	inMu   sync.Mutex // guards the inbox
	in     inbox
	inWake chan struct{} // the inbox has something
	work   chan struct{} // the ready have somebody

	mu       sync.Mutex // guards what follows, and the state of all watchers
	kv       history
	position int64
	index    *index // of the synced
	ready    []*watcher
	asks     []ask
	streams  map[*Stream]struct{}
	stopped  bool
	slow     int // watchers that are neither synced nor dead
	pass     passBuffers
}

// inbox is what Notify has brought and no pass has served yet.
type inbox struct {
	batches [][]mvcc.Event
	events  int
	bytes   int
	rev     int64
	lost    bool // it overflowed: up to rev, the events are only in the store
}

// ask is a progress request that waits for the position.
type ask struct {
	stream *Stream
	rev    int64
}

// New returns a hub over kv. Events flow while Run is running.
func New(kv *mvcc.Store, o Options) *Hub { return newHub(kv, o) }

func newHub(kv history, o Options) *Hub {
	o.setDefaults()
	h := &Hub{
		o: o, limits: defaultLimits, kv: kv, index: newIndex(), streams: map[*Stream]struct{}{},
		inWake: make(chan struct{}, 1), work: make(chan struct{}, 1),
	}
	h.position, _ = kv.Revision()
	h.register()
	return h
}

// Run owns the Hub's goroutines until ctx is done, which ends all streams with
// api.ErrStopped. It returns nil.
func (h *Hub) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { h.catchUp(ctx) })
	h.serve(ctx)
	wg.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = true
	for s := range h.streams {
		h.endStream(s, api.ErrStopped)
	}
	return nil
}

// Notify hands over the events of whole revisions, in order; rev is the revision
// of the last of them. It is called after the store shows them, by the one
// goroutine that applies. It keeps events, costs the same for any number of
// watchers, and never blocks.
func (h *Hub) Notify(events []mvcc.Event, rev int64) {
	if len(events) == 0 {
		return
	}
	bytes := 0
	for i := range events {
		bytes += len(events[i].Raw) + len(events[i].Prev)
	}
	h.inMu.Lock()
	in := &h.in
	in.rev = rev
	if in.lost || in.events > 0 && (in.events+len(events) > h.limits.inboxEvents || in.bytes+bytes > h.limits.inboxBytes) {
		*in = inbox{rev: rev, lost: true}
	} else {
		in.batches = append(in.batches, events)
		in.events += len(events)
		in.bytes += bytes
	}
	h.inMu.Unlock()
	signal(h.inWake)
}

// Restore tells that a snapshot of the leader has replaced the store by kv. The
// watchers go on and are caught up from there.
func (h *Hub) Restore(kv *mvcc.Store) { h.restore(kv) }

func (h *Hub) restore(kv history) {
	h.inMu.Lock()
	h.in = inbox{}
	h.inMu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kv = kv
	current, _ := kv.Revision()
	h.skipTo(current)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// serve passes on what comes into the inbox.
func (h *Hub) serve(ctx context.Context) {
	for {
		select {
		case <-h.inWake:
		case <-ctx.Done():
			return
		}
		h.inMu.Lock()
		in := h.in
		h.in = inbox{}
		h.inMu.Unlock()
		if in.lost {
			h.mu.Lock()
			h.skipTo(in.rev)
			h.mu.Unlock()
			continue
		}
		for p := (passes{limits: &h.limits, batches: in.batches}); p.next(); {
			h.servePass(p.events)
		}
	}
}

// skipTo moves the position to rev without having served anything: those of the
// synced that want something up to rev are ready to be caught up. The lock is held.
func (h *Hub) skipTo(rev int64) {
	if rev <= h.position {
		return
	}
	for _, g := range h.index.groups {
		for i := len(g.watchers) - 1; i >= 0; i-- {
			w := g.watchers[i]
			if w.next = max(w.next, h.position+1); w.next <= rev {
				h.index.remove(w)
				h.makeReady(w)
			}
		}
	}
	h.moveTo(rev)
}

// moveTo sets the position and answers the progress requests that waited for it.
// The lock is held.
func (h *Hub) moveTo(rev int64) {
	h.position = rev
	waiting := h.asks[:0]
	for _, a := range h.asks {
		if a.rev > rev {
			waiting = append(waiting, a)
			continue
		}
		a.stream.asks--
		a.stream.answerProgress()
	}
	clear(h.asks[len(waiting):])
	h.asks = waiting
}

// place puts a watcher that stands nowhere among the synced or the ready. The
// lock is held.
func (h *Hub) place(w *watcher) {
	if w.next <= h.position {
		h.makeReady(w)
		return
	}
	w.state = synced
	s := w.spec
	s.next = 0
	h.index.add(w, s)
}

// makeReady lines a watcher up for the catch-up. The lock is held.
func (h *Hub) makeReady(w *watcher) {
	w.state = ready
	h.slow++
	h.ready = append(h.ready, w)
	signal(h.work)
}

// unlink takes a watcher out of wherever it stands. The lock is held. One that is
// being read stands in the step, which looks at its state before it goes on.
func (h *Hub) unlink(w *watcher) {
	switch w.state {
	case synced:
		h.index.remove(w)
	case ready:
		h.ready = without(h.ready, w)
		h.slow--
	case reading:
		h.slow--
	case stalled:
		w.stream.stalled = without(w.stream.stalled, w)
		h.slow--
	}
}

// without removes w from list and keeps the order.
func without(list []*watcher, w *watcher) []*watcher {
	for i := range list {
		if list[i] == w {
			copy(list[i:], list[i+1:])
			list[len(list)-1] = nil
			return list[:len(list)-1]
		}
	}
	return list
}

// stall sets a watcher aside until its stream has room. The locks of Hub and
// stream are held, and slow counts the watcher already.
func (h *Hub) stall(w *watcher) {
	w.state = stalled
	w.stream.stalled = append(w.stream.stalled, w)
	w.stream.hasStalled = true
}

// resume makes the stalled watchers of a stream ready again.
func (h *Hub) resume(s *Stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range s.stalled {
		h.slow--
		h.makeReady(w)
	}
	clear(s.stalled)
	s.stalled = s.stalled[:0]
}

// cancelCompacted ends a watcher whose events are no longer there. Its id stays
// taken until the client cancels it, as in etcd. The lock is held, and the watcher
// stands nowhere.
func (h *Hub) cancelCompacted(w *watcher, compacted int64) {
	w.state = dead
	w.stream.answer(0, api.WatchHead{ID: w.id, Canceled: true, CompactRevision: compacted})
}

// streamEnded tells whether s has ended. The lock is held.
func (h *Hub) streamEnded(s *Stream) bool {
	_, ok := h.streams[s]
	return !ok
}

// endStream ends a stream and its watchers. The lock is held.
func (h *Hub) endStream(s *Stream, err error) {
	if h.streamEnded(s) {
		return
	}
	for _, w := range s.watchers {
		if w.state != ready {
			h.unlink(w)
		} else {
			h.slow--
		}
		w.state = gone
	}
	// One sweep for all the ready, who may be many.
	left := h.ready[:0]
	for _, w := range h.ready {
		if w.state == ready {
			left = append(left, w)
		}
	}
	clear(h.ready[len(left):])
	h.ready = left
	clear(s.watchers)
	s.stalled = nil
	asks := h.asks[:0]
	for _, a := range h.asks {
		if a.stream != s {
			asks = append(asks, a)
		}
	}
	clear(h.asks[len(asks):])
	h.asks = asks
	delete(h.streams, s)
	s.end(err)
}
