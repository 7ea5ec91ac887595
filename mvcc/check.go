package mvcc

import (
	"fmt"
	"math/bits"

	"theseus/internal/must"
)

// holdTree checks the whole index in builds with costly assertions, once for as many
// changes as there are keys, so that a long run costs no more than in proportion.
func (s *Store) holdTree(changes int) {
	if !must.Invariants {
		return
	}
	if s.unchecked += int64(changes); s.unchecked > s.tree.count(&everything, s.rev.Load()) {
		s.unchecked = 0
		must.Hold(s.tree.check)
	}
}

// check walks the whole tree and tells what is wrong with its shape, order or counts.
func (t *tree) check() error {
	prev := ""
	var node func(in *inner, least string, top bool) (child, error)
	node = func(in *inner, least string, top bool) (child, error) {
		if in.n < 1 || !top && in.n > innerKids {
			return child{}, fmt.Errorf("inner node with %d children", in.n)
		}
		var sum child
		for i := range in.n {
			c := in.child(i)
			if i > 0 {
				if c.least <= least {
					return sum, fmt.Errorf("child %d begins at %q, not above %q", i, c.least, least)
				}
				least = c.least
			}
			got := child{}
			var err error
			if in.level > 1 {
				got, err = node(c.inner, least, false)
			} else {
				got, err = c.leaf.check(least, &prev)
			}
			if err != nil {
				return sum, err
			}
			if got.count != c.count || got.last > c.last {
				return sum, fmt.Errorf("place %d of level %d has %d live keys and revision %d, below it are %d and %d",
					i, in.level, c.count, c.last, got.count, got.last)
			}
			sum.count += c.count
			sum.last = max(sum.last, c.last)
		}
		return sum, nil
	}
	_, err := node(t.root.Load(), "", true)
	return err
}

func (l *leaf) check(least string, prev *string) (child, error) {
	c := child{count: int64(bits.OnesCount32(l.live.Load())), last: l.last.Load()}
	for i, e := range l.entries[:l.n] {
		if e.key < least || e.key <= *prev && *prev != "" {
			return c, fmt.Errorf("key %q after %q, in a leaf from %q", e.key, *prev, least)
		}
		*prev = e.key
		r := e.head.Load()
		if live := l.live.Load()>>i&1 == 1; live == r.tomb() {
			return c, fmt.Errorf("key %q: live %v, tombstone %v", e.key, live, r.tomb())
		}
		if r.lastFlip() > c.last {
			return c, fmt.Errorf("key %q flipped at %d, its leaf says %d", e.key, r.lastFlip(), c.last)
		}
	}
	if l.live.Load()>>l.n != 0 {
		return c, fmt.Errorf("marks %b of %d entries", l.live.Load(), l.n)
	}
	for _, e := range l.entries[l.n:] {
		if e != nil {
			return c, fmt.Errorf("an entry beyond the %d of a leaf", l.n)
		}
	}
	return c, nil
}
