package mvcc

import "math/bits"

// load fills an empty tree with entries in ascending order. It is for a restore.
func (t *tree) load(entries []*entry) {
	if len(entries) == 0 {
		return
	}
	const fill = leafKeys - leafKeys/8 // some room for what comes between
	level := make([]child, 0, len(entries)/fill+1)
	for len(entries) > 0 {
		l := &leaf{n: min(fill, len(entries))}
		copy(l.entries[:], entries[:l.n])
		live, last := uint32(0), int64(0)
		for i, e := range l.entries[:l.n] {
			r := e.head.Load()
			if !r.tomb() {
				live |= 1 << i
			}
			last = max(last, r.lastFlip())
		}
		l.live.Store(live)
		l.last.Store(last)
		level = append(level, l.asChild(entries[0].key))
		entries = entries[l.n:]
	}
	for height := 1; ; height++ {
		const fill = innerKids - innerKids/8
		above := make([]child, 0, len(level)/fill+1)
		for len(level) > 0 {
			n := min(fill, len(level))
			least := level[0].least
			above = append(above, newInner(height, level[:n]).asChild(least))
			level = level[n:]
		}
		if level = above; len(level) == 1 {
			t.root.Store(level[0].inner)
			return
		}
	}
}

// count returns the number of keys of an interval that exist at a main revision
// which is not compacted.
func (t *tree) count(iv *interval, rev int64) int64 {
	if iv.empty() {
		return 0
	}
	return t.root.Load().count(iv, true, iv.bounded, rev)
}

// count counts below a node; from and to tell which ends of the interval may lie
// within it.
func (in *inner) count(iv *interval, from, to bool, rev int64) (n int64) {
	first, last := 0, in.n-1
	if from {
		first = in.find(iv.from)
	}
	if to {
		last = in.find(iv.to)
	}
	for i := first; i <= last; i++ {
		p := &in.place[i]
		cutLeft, cutRight := from && i == first, to && i == last
		if !cutLeft && !cutRight {
			count := p.count.Load()
			if p.last.Load() <= rev { // after the count: see tree
				n += count
				continue
			}
		}
		if in.level > 1 {
			n += p.inner.Load().count(iv, cutLeft, cutRight, rev)
		} else {
			n += p.leaf.Load().count(iv, cutLeft, cutRight, rev)
		}
	}
	return n
}

func (l *leaf) count(iv *interval, from, to bool, rev int64) int64 {
	return int64(bits.OnesCount32(l.visible(l.within(iv, from, to), rev)))
}

// within marks the entries of an interval.
func (l *leaf) within(iv *interval, from, to bool) uint32 {
	first, end := 0, l.n
	if from {
		first = l.find(iv.from)
	}
	if to {
		end = l.find(iv.to)
	}
	if end <= first {
		return 0
	}
	return lowBits(end) &^ lowBits(first)
}

// visible keeps of the marked entries those that exist at a main revision.
func (l *leaf) visible(marked uint32, rev int64) uint32 {
	live := l.live.Load()
	if l.last.Load() <= rev { // after live: see tree
		return live & marked
	}
	seen := uint32(0)
	for m := marked; m != 0; m &= m - 1 {
		i := bits.TrailingZeros32(m)
		if l.entries[i].head.Load().live(rev) {
			seen |= 1 << i
		}
	}
	return seen
}

// cursor walks leaves in order, in either direction.
type cursor struct {
	path  [maxHeight]step
	depth int
	leaf  *leaf // nil at the end
}

type step struct {
	in *inner
	i  int
}

// seek returns a cursor at the leaf that has key, if any has.
func (t *tree) seek(key string) cursor {
	var c cursor
	c.down(t.root.Load(), func(in *inner) int { return in.find(key) })
	return c
}

// last returns a cursor at the last leaf.
func (t *tree) last() cursor {
	var c cursor
	c.down(t.root.Load(), lastPlace)
	return c
}

func firstPlace(*inner) int   { return 0 }
func lastPlace(in *inner) int { return in.n - 1 }

// down goes from a node to a leaf by the places that choose names.
func (c *cursor) down(in *inner, choose func(*inner) int) {
	for {
		i := choose(in)
		c.path[c.depth] = step{in, i}
		c.depth++
		if in.level == 1 {
			c.leaf = in.place[i].leaf.Load()
			return
		}
		in = in.place[i].inner.Load()
	}
}

// next moves to the next leaf.
func (c *cursor) next() {
	for c.depth > 0 {
		s := &c.path[c.depth-1]
		if s.i+1 < s.in.n {
			s.i++
			c.enter(s, firstPlace)
			return
		}
		c.depth--
	}
	c.leaf = nil
}

// prev moves to the leaf before.
func (c *cursor) prev() {
	for c.depth > 0 {
		s := &c.path[c.depth-1]
		if s.i > 0 {
			s.i--
			c.enter(s, lastPlace)
			return
		}
		c.depth--
	}
	c.leaf = nil
}

func (c *cursor) enter(s *step, choose func(*inner) int) {
	if s.in.level == 1 {
		c.leaf = s.in.place[s.i].leaf.Load()
		return
	}
	c.down(s.in.place[s.i].inner.Load(), choose)
}

// ascend calls fn for the leaves of an interval, in ascending order, with the
// entries in them that exist at rev marked, until it returns false.
func (t *tree) ascend(iv *interval, rev int64, fn func(l *leaf, marked uint32) bool) {
	if iv.empty() {
		return
	}
	from := true
	for c := t.seek(iv.from); c.leaf != nil; c.next() {
		l := c.leaf
		if l.n == 0 {
			continue
		}
		to := iv.bounded && l.entries[l.n-1].key >= iv.to
		m := l.visible(l.within(iv, from, to), rev)
		if m != 0 && !fn(l, m) || to {
			return
		}
		from = false
	}
}

// descend is ascend from the end.
func (t *tree) descend(iv *interval, rev int64, fn func(l *leaf, marked uint32) bool) {
	if iv.empty() {
		return
	}
	c := t.last()
	if iv.bounded {
		c = t.seek(iv.to)
	}
	to := iv.bounded
	for ; c.leaf != nil; c.prev() {
		l := c.leaf
		if l.n == 0 {
			continue
		}
		from := l.entries[0].key < iv.from
		m := l.visible(l.within(iv, from, to), rev)
		if m != 0 && !fn(l, m) || from {
			return
		}
		to = false
	}
}
