package watch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"theseus/api"
	"theseus/mvcc"
)

// step is one bounded read of history for some of the watchers that are behind.
type step struct {
	kv       history
	limits   *limits
	watchers []*watcher
	to       int64 // the position when it began
	done     int64 // the last revision that was read
	index    *index
	found    []*group
	full     bool // some watcher has got stepBytes

	lost      []*watcher // want what is compacted
	compacted int64
}

// errFull ends a read that has brought enough.
var errFull = errors.New("enough events for one step")

// catchUp serves the ready, step by step, until ctx is done.
func (h *Hub) catchUp(ctx context.Context) {
	for ctx.Err() == nil {
		served, err := h.step()
		switch {
		case errors.Is(err, api.ErrCompacted):
			// The next step finds out which watchers that concerns.
		case err != nil:
			// The watchers are ready again; the store may be closing, or gone for a
			// snapshot that is about to replace it.
			h.o.Logger.Warn("failed to read history for watchers", zap.Error(err))
			select {
			case <-time.After(retryInterval):
			case <-ctx.Done():
			}
		case !served:
			select {
			case <-h.work:
			case <-ctx.Done():
			}
		}
	}
}

// step catches up the watcher that has waited longest, and with it others that
// want the same revisions. It tells whether there was one.
func (h *Hub) step() (served bool, err error) {
	h.mu.Lock()
	st := &step{kv: h.kv, limits: &h.limits, to: h.position, watchers: h.choose()}
	h.mu.Unlock()
	if len(st.watchers) == 0 {
		return false, nil
	}
	err = st.read()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.finish(st)
		// While the step was read, the position has moved on. The short rest is read
		// under the lock: without it a watcher might chase the position for ever.
		if rest := h.near(st); len(rest) > 0 {
			last := &step{kv: h.kv, limits: &h.limits, to: h.position, watchers: rest}
			if err = last.read(); err == nil {
				h.finish(last)
			}
		}
	}
	for _, w := range st.watchers {
		w.group = nil // lets go of the step's events
		if w.state == reading {
			h.slow--
			h.place(w)
		}
	}
	return true, err
}

// choose takes the watchers of a step from the ready, whose others keep their
// order. The lock is held.
func (h *Hub) choose() []*watcher {
	if len(h.ready) == 0 {
		return nil
	}
	from := h.ready[0].next
	scan := h.ready[:min(len(h.ready), stepScan)]
	var chosen []*watcher
	kept := 0
	for _, w := range scan {
		if len(chosen) < h.limits.stepWatchers && w.next >= from && w.next < from+int64(h.limits.stepRevs) {
			w.state = reading
			chosen = append(chosen, w)
		} else {
			h.ready[kept] = w
			kept++
		}
	}
	end := kept + copy(h.ready[kept:], h.ready[len(scan):])
	clear(h.ready[end:])
	h.ready = h.ready[:end]
	return chosen
}

// near returns the watchers of a step that a short read would bring to the
// position. The lock is held.
func (h *Hub) near(st *step) (rest []*watcher) {
	for _, w := range st.watchers {
		if w.state == reading && w.next <= h.position && h.position-w.next < h.limits.closeRevs {
			rest = append(rest, w)
		}
	}
	return rest
}

// read collects the events of the step's watchers, group by group. No lock is
// needed: what it changes of a watcher belongs to the reader as long as it is reading.
func (st *step) read() error {
	_, st.compacted = st.kv.Revision()
	st.index = newIndex()
	from := st.to + 1
	for _, w := range st.watchers {
		if w.next < st.compacted {
			st.lost = append(st.lost, w)
			continue
		}
		s := w.spec
		s.next = w.next
		st.index.add(w, s)
		from = min(from, w.next)
	}
	if from > st.to {
		st.done = st.to
		return nil
	}
	next, err := st.kv.Events(from, st.to, st.limits.stepRevs, st.collect)
	if err == nil {
		st.done = min(next-1, st.to)
	} else if !errors.Is(err, errFull) {
		return fmt.Errorf("read events from revision %d: %w", from, err)
	}
	if _, compacted := st.kv.Revision(); from < compacted {
		return api.ErrCompacted // it may have taken away what was to be read
	}
	if st.done < from {
		return fmt.Errorf("read events from revision %d: the store stays at %d", from, st.done)
	}
	return nil
}

// collect takes the events of one revision.
func (st *step) collect(events []mvcc.Event) error {
	for i := range events {
		e := &events[i]
		var plain, withPrevious []byte
		st.found = st.index.match(st.found[:0], e.Key)
		for _, g := range st.found {
			if !g.spec.flags.wants(e.Delete) || e.Rev.Main < g.spec.next {
				continue
			}
			frame := &plain
			if g.spec.flags&withPrev != 0 {
				frame = &withPrevious
			}
			if *frame == nil {
				*frame = encodeEvent(e, st.prev(e, g.spec.flags))
			}
			g.frames = append(g.frames, *frame)
			g.byteLen += len(*frame)
			st.full = st.full || g.byteLen >= st.limits.stepBytes
		}
		st.done = e.Rev.Main
	}
	if st.full {
		return errFull
	}
	return nil
}

func (st *step) prev(e *mvcc.Event, f flags) []byte {
	if f&withPrev == 0 || e.Rev.Main <= st.compacted {
		return nil
	}
	if e.Prev != nil {
		return e.Prev
	}
	return st.kv.Prev(e)
}

// finish queues what a step has brought. Watchers whose stream is full are
// stalled, without having got anything of it. The lock is held.
func (h *Hub) finish(st *step) {
	for _, w := range st.lost {
		if w.state == reading {
			h.slow--
			h.cancelCompacted(w, st.compacted)
		}
	}
	for _, g := range st.index.groups {
		for _, w := range g.watchers {
			if w.state != reading {
				continue // canceled meanwhile
			}
			if len(g.frames) > 0 && !h.queueStep(w, st.to, g) {
				continue
			}
			w.next = max(w.next, st.done+1)
		}
	}
}

func (h *Hub) queueStep(w *watcher, rev int64, g *group) bool {
	s := w.stream
	s.mu.Lock()
	defer s.letGo()
	if s.push(w, rev, g.frames, g.byteLen) {
		return true
	}
	h.stall(w)
	return false
}
