package mvcc

import (
	"math/bits"
	"sync/atomic"
)

// tree orders the entries by key: a B+tree with one writer, readers that take no
// lock, and counts.
//
// What a reader may rely on: the keys of an inner node never change, and a place
// of it is only ever given a newer version of the same interval; a node that
// changes its shape is replaced by a new one. So whatever version of a node a
// reader has come by, it leads to every key that existed when the reader began,
// and keys that came later are told by their records' revisions.
//
// Every place has the number of live keys below it and the main revision of the
// newest change of that number. The writer notes the revision before it changes
// the number, and a reader looks at it after it has read the number: if the
// revision is not above the reader's own, the number is right for the reader,
// and else it looks one level deeper. So counting costs a walk down the two
// edges of an interval, plus a look at what changed since.
type tree struct {
	root atomic.Pointer[inner]
}

const (
	leafKeys   = 32 // one bit each in leaf.live
	innerKids  = 64
	leafFew    = leafKeys / 4 // below this a node joins its neighbour,
	innerFew   = innerKids / 4
	leafMerge  = leafKeys * 3 / 4 // if they have no more than this together
	innerMerge = innerKids * 3 / 4
	maxHeight  = 16
)

// leaf holds up to leafKeys entries in order. Its entries never change, the marks
// of the live ones do.
type leaf struct {
	n       int
	last    atomic.Int64 // newest change of live, noted before it
	live    atomic.Uint32
	entries [leafKeys]*entry
}

// inner has places for its children: leaves at level 1, inner nodes above.
type inner struct {
	n, level int
	least    [innerKids]string // of each child but the first, no key below it is less
	place    [innerKids]place
}

// place is a child of an inner node: a leaf or an inner node.
type place struct {
	leaf  atomic.Pointer[leaf]
	inner atomic.Pointer[inner]
	count atomic.Int64 // live keys
	last  atomic.Int64 // newest change of count, noted before it
}

func newTree() *tree {
	t := &tree{}
	root := &inner{n: 1, level: 1}
	root.place[0].leaf.Store(&leaf{})
	t.root.Store(root)
	return t
}

// find returns the place that leads to key.
func (in *inner) find(key string) int {
	low, high := 1, in.n
	for low < high {
		mid := int(uint(low+high) / 2)
		if in.least[mid] > key {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low - 1
}

// find returns the place of the first entry at or after key.
func (l *leaf) find(key string) int {
	low, high := 0, l.n
	for low < high {
		mid := int(uint(low+high) / 2)
		if l.entries[mid].key >= key {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}

// child is what a place of a node being built is given.
type child struct {
	least       string
	leaf        *leaf
	inner       *inner
	count, last int64
}

func (in *inner) child(i int) child {
	p := &in.place[i]
	return child{in.least[i], p.leaf.Load(), p.inner.Load(), p.count.Load(), p.last.Load()}
}

func (in *inner) set(i int, c child) {
	in.least[i] = c.least
	p := &in.place[i]
	p.leaf.Store(c.leaf)
	p.inner.Store(c.inner)
	p.count.Store(c.count)
	p.last.Store(c.last)
}

// newInner makes a node of children.
func newInner(level int, children []child) *inner {
	in := &inner{n: len(children), level: level}
	for i, c := range children {
		in.set(i, c)
	}
	return in
}

// asChild sums a node up for the place above it.
func (in *inner) asChild(least string) child {
	c := child{least: least, inner: in}
	for i := range in.n {
		c.count += in.place[i].count.Load()
		c.last = max(c.last, in.place[i].last.Load())
	}
	return c
}

func (l *leaf) asChild(least string) child {
	return child{least: least, leaf: l, count: int64(bits.OnesCount32(l.live.Load())), last: l.last.Load()}
}

// change notes that the number of live keys below a place changes at main.
func (p *place) change(main, by int64) {
	p.last.Store(main)
	p.count.Add(by)
}

// insert adds an entry that is not in the tree, and live as of main. Only the
// writer calls it.
func (t *tree) insert(e *entry, main int64) {
	root := t.root.Load()
	switch got := root.insert(e, main); len(got) {
	case 0:
	case 1:
		t.root.Store(got[0].inner)
	default:
		t.root.Store(newInner(root.level+1, got))
	}
}

// insert returns what takes the node's place: nothing if it stays as it is, one
// node, or two.
func (in *inner) insert(e *entry, main int64) []child {
	i := in.find(e.key)
	p := &in.place[i]
	if in.level == 1 {
		l, second := p.leaf.Load().insert(e, main)
		if second == nil {
			p.change(main, 1)
			p.leaf.Store(l)
			return nil
		}
		return in.divide(i, l.asChild(in.least[i]), second.asChild(second.entries[0].key))
	}
	got := p.inner.Load().insert(e, main)
	if len(got) == 2 {
		got[0].least = in.least[i]
		return in.divide(i, got[0], got[1])
	}
	p.change(main, 1)
	if len(got) == 1 {
		p.inner.Store(got[0].inner)
	}
	return nil
}

// divide returns the node, or two, with children a and b in place of child i.
func (in *inner) divide(i int, a, b child) []child {
	all := make([]child, 0, in.n+1)
	for k := range in.n {
		if k == i {
			all = append(all, a, b)
		} else {
			all = append(all, in.child(k))
		}
	}
	least := in.least[0]
	if len(all) <= innerKids {
		return []child{newInner(in.level, all).asChild(least)}
	}
	half := len(all) / 2
	if i == in.n-1 {
		half = len(all) - 1 // keys that come in order fill the nodes that they leave behind
	}
	return []child{
		newInner(in.level, all[:half]).asChild(least),
		newInner(in.level, all[half:]).asChild(all[half].least),
	}
}

// insert returns the leaf with e in it, or two leaves. The leaf itself stays as
// it is, for readers that have it.
func (l *leaf) insert(e *entry, main int64) (first, second *leaf) {
	at := l.find(e.key)
	if l.n < leafKeys {
		return l.with(0, l.n, at, e, main), nil
	}
	if at == l.n { // as in divide
		return l, (&leaf{}).with(0, 0, 0, e, main)
	}
	const half = leafKeys / 2
	if at <= half {
		return l.with(0, half, at, e, main), l.part(half, l.n)
	}
	return l.part(0, half), l.with(half, l.n, at, e, main)
}

// part copies the entries of [from, to).
func (l *leaf) part(from, to int) *leaf {
	c := &leaf{n: to - from}
	copy(c.entries[:], l.entries[from:to])
	c.live.Store(l.live.Load() >> from & lowBits(to-from))
	c.last.Store(l.last.Load())
	return c
}

// with copies the entries of [from, to) with e, live, in its place at.
func (l *leaf) with(from, to, at int, e *entry, main int64) *leaf {
	c := &leaf{n: to - from + 1}
	at -= from
	copy(c.entries[:at], l.entries[from:])
	c.entries[at] = e
	copy(c.entries[at+1:c.n], l.entries[from+at:to])
	live := l.live.Load() >> from & lowBits(to-from)
	c.live.Store(live&lowBits(at) | 1<<at | live>>at<<(at+1))
	c.last.Store(main)
	return c
}

// lowBits has the n lowest bits set.
func lowBits(n int) uint32 { return uint32(uint64(1)<<n - 1) }

// setLive notes that a key in the tree came to life or died at main. Only the
// writer calls it.
func (t *tree) setLive(key string, main int64, live bool) {
	by := int64(1)
	if !live {
		by = -1
	}
	in := t.root.Load()
	for {
		p := &in.place[in.find(key)]
		p.change(main, by)
		if in.level > 1 {
			in = p.inner.Load()
			continue
		}
		l := p.leaf.Load()
		l.flip(main, 1<<l.find(key), live)
		return
	}
}

func (l *leaf) flip(main int64, mask uint32, live bool) {
	l.last.Store(main)
	if live {
		l.live.Store(l.live.Load() | mask)
	} else {
		l.live.Store(l.live.Load() &^ mask)
	}
}

// remove takes out entries that are not live, whose absence no reader notices.
// Only the writer calls it.
func (t *tree) remove(key string) {
	root := t.root.Load()
	now := root.remove(key)
	for now.n == 1 && now.level > 1 {
		now = now.place[0].inner.Load()
	}
	if now.n == 0 {
		now = newTree().root.Load()
	}
	if now != root {
		t.root.Store(now)
	}
}

// remove returns the node that takes the place of in, which may be in itself. It
// has no child if nothing is left.
func (in *inner) remove(key string) *inner {
	i := in.find(key)
	p := &in.place[i]
	if in.level == 1 {
		l := p.leaf.Load()
		at := l.find(key)
		if at == l.n || l.entries[at].key != key {
			return in
		}
		l = l.without(at)
		if l.n < leafFew {
			c := in.child(i)
			c.leaf = l
			return in.shrink(i, c, l.n)
		}
		p.leaf.Store(l)
		return in
	}
	old := p.inner.Load()
	kid := old.remove(key)
	switch {
	case kid == old:
	case kid.n < innerFew:
		c := in.child(i)
		c.inner = kid
		return in.shrink(i, c, kid.n)
	default:
		p.inner.Store(kid)
	}
	return in
}

func (l *leaf) without(at int) *leaf {
	c := l.part(0, at)
	c.n = l.n - 1
	copy(c.entries[at:], l.entries[at+1:l.n])
	c.live.Store(l.live.Load()&lowBits(at) | l.live.Load()>>(at+1)<<at)
	return c
}

// shrink gives child i its smaller version c, which has n entries or children:
// joined with a neighbour if the two are small enough, or dropped if it is empty.
func (in *inner) shrink(i int, c child, n int) *inner {
	all := make([]child, 0, in.n)
	for k := range in.n {
		all = append(all, in.child(k))
	}
	all[i] = c
	left := max(i-1, 0) // the pair to join is left and left+1
	switch {
	case n == 0:
		all = append(all[:i], all[i+1:]...)
	case in.n > 1 && mergeable(all[left], all[left+1]):
		all[left] = merge(all[left], all[left+1])
		all = append(all[:left+1], all[left+2:]...)
	case c.leaf != nil:
		in.place[i].leaf.Store(c.leaf)
		return in
	default:
		in.place[i].inner.Store(c.inner)
		return in
	}
	if len(all) > 0 {
		all[0].least = in.least[0]
	}
	return newInner(in.level, all)
}

func mergeable(a, b child) bool {
	if a.leaf != nil {
		return a.leaf.n+b.leaf.n <= leafMerge
	}
	return a.inner.n+b.inner.n <= innerMerge
}

func merge(a, b child) child {
	m := child{least: a.least, count: a.count + b.count, last: max(a.last, b.last)}
	if a.leaf != nil {
		l := a.leaf.part(0, a.leaf.n)
		copy(l.entries[l.n:], b.leaf.entries[:b.leaf.n])
		l.live.Store(l.live.Load() | b.leaf.live.Load()<<l.n)
		l.n += b.leaf.n
		l.last.Store(m.last)
		m.leaf = l
		return m
	}
	all := make([]child, 0, innerMerge)
	for i := range a.inner.n {
		all = append(all, a.inner.child(i))
	}
	for i := range b.inner.n {
		c := b.inner.child(i)
		if i == 0 {
			c.least = b.least
		}
		all = append(all, c)
	}
	m.inner = newInner(a.inner.level, all)
	return m
}
