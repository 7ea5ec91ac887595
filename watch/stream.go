package watch

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
)

// Stream is the watchers of one gRPC stream. One goroutine calls Next; others may
// call the rest. Create, Cancel, Progress and Refuse wait while too many of their
// answers have not been taken by Next, so that a client which only asks and never
// reads is held up; Close ends that wait.
type Stream struct {
	hub *Hub

	// Guarded by the Hub's lock.
	watchers map[int64]*watcher // dead ones too
	nextID   int64
	stalled  []*watcher
	asks     int // progress requests that wait for the position to catch up

	mu         sync.Mutex // guards what follows; taken after the Hub's lock
	queue      []item
	controls   int  // items of the queue that are no events
	bytes      int  // of distinct frames in the queue
	count      int  // of the watchers
	events     int  // in the queue, for the metric
	hasStalled bool // the Hub wants to know when the queue has been taken
	hasTicks   bool // some watcher wants progress notifications
	lastFrame  *[]byte
	err        error     // why the stream has ended
	room       sync.Cond // controls fell, or the stream ended
	wake       chan struct{}

	out // what belongs to the caller of Next
}

// item is a response that waits: either events for a watcher, or ctl.
type item struct {
	w      *watcher
	ctl    *api.WatchHead
	rev    int64    // for the header; 0 leaves it out
	frames [][]byte // encoded events, shared with other items
	size   int      // of the frames
	joined bool     // frames is the item's own
}

// NewStream returns a stream without watchers. The caller must Close it. After Run
// has ended the stream is born ended.
func (h *Hub) NewStream() *Stream {
	s := &Stream{
		hub:      h,
		watchers: map[int64]*watcher{},
		wake:     make(chan struct{}, 1),
	}
	s.room.L = &s.mu
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped {
		s.err = api.ErrStopped
		return s
	}
	h.streams[s] = struct{}{}
	return s
}

// Create makes a watcher, or answers why not. That the client may read the range
// has been checked before.
func (s *Stream) Create(r *pb.WatchCreateRequest) {
	s.waitForRoom()
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streamEnded(s) {
		return
	}
	current, compacted := h.kv.Revision()
	refuse := func(reason string) {
		s.answer(current, api.WatchHead{ID: -1, Created: true, Canceled: true, CancelReason: reason})
	}
	w := s.newWatcher(r)
	switch id := r.GetWatchId(); {
	case r.GetStartRevision() < 0:
		refuse(api.ErrCompacted.Error())
		return
	case w.spec.end != "" && w.spec.end <= w.spec.key:
		refuse(reasonEmptyRange)
		return
	case id == 0:
		for s.watchers[s.nextID] != nil {
			s.nextID++
		}
		w.id = s.nextID
		s.nextID++
	case s.watchers[id] != nil:
		refuse(reasonDuplicateID)
		return
	default:
		w.id = id
	}
	if w.start == 0 {
		w.next = current + 1
	}
	s.join(w)
	s.answer(current, api.WatchHead{ID: w.id, Created: true})
	if w.next < compacted {
		h.cancelCompacted(w, compacted)
		return
	}
	h.place(w)
}

// newWatcher translates a request; an empty key stands for the first one.
func (s *Stream) newWatcher(r *pb.WatchCreateRequest) *watcher {
	w := &watcher{
		stream: s, start: r.GetStartRevision(), next: r.GetStartRevision(),
		progress: r.GetProgressNotify(), fragment: r.GetFragment(),
		spec: spec{key: string(r.GetKey()), end: string(r.GetRangeEnd())},
	}
	if w.spec.key == "" {
		w.spec.key = "\x00"
	}
	if w.spec.end == "\x00" {
		w.spec.end, w.spec.toEnd = "", true
	}
	if r.GetPrevKv() {
		w.spec.flags |= withPrev
	}
	for _, f := range r.GetFilters() {
		switch f {
		case pb.WatchCreateRequest_NOPUT:
			w.spec.flags |= noPut
		case pb.WatchCreateRequest_NODELETE:
			w.spec.flags |= noDelete
		}
	}
	return w
}

// join makes w one of the stream's watchers. The Hub's lock is held.
func (s *Stream) join(w *watcher) {
	s.watchers[w.id] = w
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	if w.progress && !s.hasTicks {
		s.hasTicks = true
		s.signal() // Next has to start its timer
	}
}

// Refuse answers a create request with created, canceled, id -1 and the reason:
// the client may not read the range, for instance.
func (s *Stream) Refuse(reason string) {
	s.waitForRoom()
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streamEnded(s) {
		return
	}
	current, _ := h.kv.Revision()
	s.answer(current, api.WatchHead{ID: -1, Created: true, Canceled: true, CancelReason: reason})
}

// Cancel ends a watcher and answers so. An unknown id is ignored.
func (s *Stream) Cancel(id int64) {
	s.waitForRoom()
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := s.watchers[id]; w != nil && !h.streamEnded(s) {
		s.drop(w)
		current, _ := h.kv.Revision()
		s.answer(current, api.WatchHead{ID: id, Canceled: true})
	}
}

// CancelAll ends all watchers with a reason, such as a token that has expired.
func (s *Stream) CancelAll(reason string) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streamEnded(s) {
		return
	}
	current, _ := h.kv.Revision()
	for id, w := range s.watchers {
		s.drop(w)
		s.answer(current, api.WatchHead{ID: id, Canceled: true, CancelReason: reason})
	}
}

// drop takes w out of the stream and of wherever it stands. The Hub's lock is held.
func (s *Stream) drop(w *watcher) {
	s.hub.unlink(w)
	w.state = gone
	delete(s.watchers, w.id)
	s.mu.Lock()
	s.count--
	s.mu.Unlock()
}

// Progress answers with watch id -1 and the current revision, provided that the
// stream has watchers and all of them are synced and want nothing later; if not,
// it does not answer at all. The answer may come a moment later, when everything
// up to the revision of now has been queued.
func (s *Stream) Progress() {
	s.waitForRoom()
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streamEnded(s) || s.asks >= asksLimit {
		return
	}
	current, _ := h.kv.Revision()
	if current <= h.position {
		s.answerProgress()
		return
	}
	s.asks++
	h.asks = append(h.asks, ask{s, current})
}

// answerProgress decides about one progress request. The Hub's lock is held.
func (s *Stream) answerProgress() {
	for _, w := range s.watchers {
		if w.state != synced || w.start > s.hub.position {
			return
		}
	}
	if len(s.watchers) > 0 {
		s.answer(s.hub.position, api.WatchHead{ID: -1})
	}
}

// Close ends the stream and all its watchers. Next returns api.ErrCanceled.
func (s *Stream) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.hub.endStream(s, api.ErrCanceled)
}

// answer queues a response that is no event. There is always room for it: those
// who ask for answers have waited before.
func (s *Stream) answer(rev int64, head api.WatchHead) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.controls++
	s.queue = append(s.queue, item{ctl: &head, rev: rev})
	s.signal()
}

// push queues events for w unless the queue is full. A queue without events always
// takes some, however large they are. The stream's lock is held; the caller signals.
func (s *Stream) push(w *watcher, rev int64, frames [][]byte, size int) bool {
	more := 0
	if s.lastFrame != &frames[0] { // what several watchers share counts once
		more = size
	}
	l := &s.hub.limits
	if s.events > 0 && (len(s.queue) >= l.queueItems+l.queuePerWatcher*s.count || s.bytes+more > l.queueBytes) {
		return false
	}
	s.lastFrame = &frames[0]
	s.bytes += more
	s.events += len(frames)
	s.queue = append(s.queue, item{w: w, rev: rev, frames: frames, size: size})
	return true
}

// signal wakes the caller of Next. The stream's lock is held.
func (s *Stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Stream) waitForRoom() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.controls >= s.hub.limits.queueControl && s.err == nil {
		s.room.Wait()
	}
}

// end makes Next return err. Both locks are the callers' affair: the Hub's is held.
func (s *Stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.queue, s.events, s.bytes, s.controls = nil, 0, 0, 0
	s.room.Broadcast()
	s.signal()
}

// take moves the queue to the caller of Next, waiting until there is something.
func (s *Stream) take(ctx context.Context) error {
	for {
		s.mu.Lock()
		if s.err != nil {
			defer s.mu.Unlock()
			return s.err
		}
		if len(s.queue) > 0 {
			stalled := s.hasStalled
			s.out.accept(&s.queue)
			s.out.merge(&s.hub.limits)
			s.controls, s.bytes, s.events, s.lastFrame, s.hasStalled = 0, 0, 0, nil, false
			s.room.Broadcast()
			s.mu.Unlock()
			if stalled {
				s.hub.resume(s)
			}
			return nil
		}
		s.shrink(s.count)
		ticks := s.hasTicks
		s.mu.Unlock()
		if ticks && s.ticker == nil {
			s.ticker = time.NewTicker(jittered(s.hub.o.ProgressInterval))
		}
		if err := s.wait(ctx); err != nil {
			return err
		}
	}
}

// jittered spreads the ticks of streams that were opened together.
func jittered(d time.Duration) time.Duration { return d + rand.N(d/10+1) }

func (s *Stream) wait(ctx context.Context) error {
	var tick <-chan time.Time
	if s.ticker != nil {
		tick = s.ticker.C
	}
	select {
	case <-s.wake:
	case <-tick:
		s.notifyProgress()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// notifyProgress queues a notification for each watcher that asked for them, is
// synced, and was sent nothing since the last tick.
func (s *Stream) notifyProgress() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range s.watchers {
		if w.progress && !w.sent && w.state == synced {
			s.answer(h.position, api.WatchHead{ID: w.id})
		}
		w.sent = false
	}
}

// Next waits for responses and returns them, each an encoded WatchResponse, in the
// order in which they must be sent. The bytes are valid until the next call. It
// returns the cause of ctx's end, api.ErrStopped after Run has ended, and
// api.ErrCanceled after Close.
func (s *Stream) Next(ctx context.Context) ([][]byte, error) {
	if s.out.done() {
		if err := s.take(ctx); err != nil {
			s.out.release()
			return nil, err
		}
	}
	return s.out.encode(s.hub), nil
}
