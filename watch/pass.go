package watch

import (
	"sort"

	"theseus/api"
	"theseus/mvcc"
)

// passes cuts what came through the inbox into pieces of whole revisions.
type passes struct {
	limits  *limits
	batches [][]mvcc.Event
	at      int          // events of batches[0] that are behind us
	events  []mvcc.Event // the piece at hand
	buf     []mvcc.Event
}

// next puts together the next piece: up to limits.passRevs revisions or limits.passBytes, but
// one revision at least.
func (p *passes) next() bool {
	p.events = nil
	revs, bytes, last := 0, 0, int64(-1)
	p.buf = p.buf[:0]
	for len(p.batches) > 0 {
		batch := p.batches[0][p.at:]
		n := 0
		for ; n < len(batch); n++ {
			e := &batch[n]
			if e.Rev.Main != last {
				if revs == p.limits.passRevs || bytes >= p.limits.passBytes {
					break
				}
				revs, last = revs+1, e.Rev.Main
			}
			bytes += len(e.Raw) + len(e.Prev)
		}
		whole := n == len(batch)
		if whole && len(p.batches) == 1 && len(p.buf) == 0 {
			p.events, p.batches = batch, nil // the usual case: no copy
			return len(batch) > 0
		}
		p.buf = append(p.buf, batch[:n]...)
		if !whole {
			p.at += n
			break
		}
		p.batches, p.at = p.batches[1:], 0
	}
	p.events = p.buf
	return len(p.events) > 0
}

// passBuffers is what a pass needs and the next one uses again.
type passBuffers struct {
	seq    uint64
	found  []*group
	groups []*group // that have hits in this pass
	behind []*watcher
}

// frames are the encoded events of a pass, in two forms, made when first wanted.
// Queues keep parts of them, so that each pass has its own.
type frames struct{ plain, prev [][]byte }

func (f *frames) make(events []mvcc.Event, i int32, fl flags) {
	list, prev := &f.plain, []byte(nil)
	if fl&withPrev != 0 {
		list, prev = &f.prev, events[i].Prev
	}
	if *list == nil {
		*list = make([][]byte, len(events))
	}
	if (*list)[i] == nil {
		(*list)[i] = encodeEvent(&events[i], prev)
	}
}

func (f *frames) form(fl flags) [][]byte {
	if fl&withPrev != 0 {
		return f.prev
	}
	return f.plain
}

func encodeEvent(e *mvcc.Event, prev []byte) []byte {
	return api.AppendEvent(make([]byte, 0, api.SizeEvent(e.Delete, e.Raw, prev)), e.Delete, e.Raw, prev)
}

// servePass queues events, which are whole revisions, at all synced watchers that
// want them, and moves the position on.
func (h *Hub) servePass(events []mvcc.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	rev := events[len(events)-1].Rev.Main
	if rev <= h.position {
		return // a snapshot has overtaken them
	}
	b := &h.pass
	b.seq++
	b.groups = b.groups[:0]
	var f frames
	for i := range events {
		e := &events[i]
		b.found = h.index.match(b.found[:0], e.Key)
		for _, g := range b.found {
			if !g.spec.flags.wants(e.Delete) {
				continue
			}
			if g.seen != b.seq {
				g.seen, g.hits = b.seq, g.hits[:0]
				b.groups = append(b.groups, g)
			}
			g.hits = append(g.hits, int32(i))
			f.make(events, int32(i), g.spec.flags)
		}
	}
	for _, g := range b.groups {
		h.deliver(g, events, f.form(g.spec.flags))
	}
	clear(b.groups)
	clear(b.found)
	h.moveTo(rev)
}

// deliver queues what a group hit at each of its watchers. Those whose stream has
// no room leave the index.
func (h *Hub) deliver(g *group, events []mvcc.Event, all [][]byte) {
	first, last := g.hits[0], g.hits[len(g.hits)-1]
	mine := all[first : last+1 : last+1]
	if len(mine) != len(g.hits) {
		mine = make([][]byte, len(g.hits))
		for i, hit := range g.hits {
			mine[i] = all[hit]
		}
	}
	size := sizeOf(mine)
	rev, from := events[len(events)-1].Rev.Main, events[0].Rev.Main
	b := &h.pass
	b.behind = b.behind[:0]
	var s *Stream
	for _, w := range g.watchers {
		part, partSize := mine, size
		if w.next > from {
			if part = wanted(g, events, mine, w.next); len(part) == 0 {
				continue
			}
			partSize = sizeOf(part)
		}
		if w.stream != s {
			s.letGo()
			s = w.stream
			s.mu.Lock()
		}
		if !s.push(w, rev, part, partSize) {
			w.next = max(w.next, from)
			b.behind = append(b.behind, w)
			h.slow++
			h.stall(w)
		}
	}
	s.letGo()
	for _, w := range b.behind {
		h.index.remove(w)
	}
	clear(b.behind)
}

// wanted cuts off what is older than next: the watcher wants to start later, or
// got it while it was caught up.
func wanted(g *group, events []mvcc.Event, mine [][]byte, next int64) [][]byte {
	return mine[sort.Search(len(mine), func(i int) bool { return events[g.hits[i]].Rev.Main >= next }):]
}

// letGo unlocks a stream to which something was pushed.
func (s *Stream) letGo() {
	if s != nil {
		s.signal()
		s.mu.Unlock()
	}
}

func sizeOf(frames [][]byte) (n int) {
	for _, f := range frames {
		n += len(f)
	}
	return n
}
