package watch

import (
	"math/rand/v2"
	"slices"
	"strings"
)

// group is the watchers that get the very same events.
type group struct {
	spec     spec
	watchers []*watcher

	// What a pass or a step has collected for it so far.
	seen    uint64   // the pass that collected
	hits    []int32  // numbers of the events, during a pass
	frames  [][]byte // encoded events, during a step
	byteLen int      // of frames
}

// index finds the groups that an event's key concerns. Watchers of one key are
// found through a map, those of ranges through a tree.
type index struct {
	groups map[spec]*group
	single map[string][]*group // those of one key
	ranges tree
	count  int // watchers
}

func newIndex() *index {
	return &index{groups: map[spec]*group{}, single: map[string][]*group{}}
}

func (x *index) add(w *watcher, s spec) {
	g := x.groups[s]
	if g == nil {
		g = &group{spec: s}
		x.groups[s] = g
		if s.end == "" && !s.toEnd {
			x.single[s.key] = append(x.single[s.key], g)
		} else {
			x.ranges.add(g)
		}
	}
	w.group, w.place = g, len(g.watchers)
	g.watchers = append(g.watchers, w)
	x.count++
}

func (x *index) remove(w *watcher) {
	g := w.group
	last := len(g.watchers) - 1
	g.watchers[w.place] = g.watchers[last]
	g.watchers[w.place].place = w.place
	g.watchers[last] = nil
	g.watchers = g.watchers[:last]
	w.group = nil
	x.count--
	if last > 0 {
		return
	}
	delete(x.groups, g.spec)
	if g.spec.end != "" || g.spec.toEnd {
		x.ranges.remove(g)
		return
	}
	rest := slices.DeleteFunc(x.single[g.spec.key], func(o *group) bool { return o == g })
	if len(rest) == 0 {
		delete(x.single, g.spec.key)
	} else {
		x.single[g.spec.key] = rest
	}
}

// match appends to out the groups whose watchers watch key.
func (x *index) match(out []*group, key []byte) []*group {
	out = append(out, x.single[string(key)]...)
	return x.ranges.root.stab(out, key)
}

// tree is an interval tree: a treap ordered by where ranges begin, in which every
// node knows the furthest end below it. A look-up costs the logarithm of the
// number of ranges plus what it finds.
type tree struct{ root *node }

type node struct {
	key, end    string
	toEnd       bool
	groups      []*group // that differ in flags only
	rank        uint64   // random; a node's is not below its children's
	left, right *node
	maxEnd      string // of the ranges here and below, unless maxToEnd
	maxToEnd    bool
}

// order compares a range with the node's.
func (n *node) order(s *spec) int {
	if c := strings.Compare(s.key, n.key); c != 0 {
		return c
	}
	if s.toEnd != n.toEnd {
		if s.toEnd {
			return 1
		}
		return -1
	}
	return strings.Compare(s.end, n.end)
}

// update computes what the node knows of those below it.
func (n *node) update() {
	n.maxEnd, n.maxToEnd = n.end, n.toEnd
	for _, c := range [...]*node{n.left, n.right} {
		if c != nil {
			n.maxEnd, n.maxToEnd = max(n.maxEnd, c.maxEnd), n.maxToEnd || c.maxToEnd
		}
	}
}

func (t *tree) add(g *group)    { t.root = t.root.insert(g) }
func (t *tree) remove(g *group) { t.root = t.root.delete(g) }

func (n *node) insert(g *group) *node {
	if n == nil {
		n = &node{key: g.spec.key, end: g.spec.end, toEnd: g.spec.toEnd, groups: []*group{g}, rank: rand.Uint64()}
		n.update()
		return n
	}
	switch c := n.order(&g.spec); {
	case c == 0:
		n.groups = append(n.groups, g)
		return n
	case c < 0:
		if n.left = n.left.insert(g); n.left.rank > n.rank {
			return n.rotateRight()
		}
	default:
		if n.right = n.right.insert(g); n.right.rank > n.rank {
			return n.rotateLeft()
		}
	}
	n.update()
	return n
}

func (n *node) rotateRight() *node {
	up := n.left
	n.left, up.right = up.right, n
	n.update()
	up.update()
	return up
}

func (n *node) rotateLeft() *node {
	up := n.right
	n.right, up.left = up.left, n
	n.update()
	up.update()
	return up
}

func (n *node) delete(g *group) *node {
	if n == nil {
		return nil
	}
	switch c := n.order(&g.spec); {
	case c < 0:
		n.left = n.left.delete(g)
	case c > 0:
		n.right = n.right.delete(g)
	default:
		if n.groups = slices.DeleteFunc(n.groups, func(o *group) bool { return o == g }); len(n.groups) == 0 {
			return join(n.left, n.right)
		}
	}
	n.update()
	return n
}

// join makes one treap of two, all of the left one being before the right one.
func join(l, r *node) *node {
	switch {
	case l == nil:
		return r
	case r == nil:
		return l
	case l.rank > r.rank:
		l.right = join(l.right, r)
		l.update()
		return l
	default:
		r.left = join(l, r.left)
		r.update()
		return r
	}
}

// stab appends the groups of the ranges that hold key.
func (n *node) stab(out []*group, key []byte) []*group {
	for n != nil && (n.maxToEnd || n.maxEnd > string(key)) {
		out = n.left.stab(out, key)
		if n.key > string(key) {
			return out
		}
		if n.toEnd || n.end > string(key) {
			out = append(out, n.groups...)
		}
		n = n.right
	}
	return out
}
