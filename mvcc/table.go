package mvcc

import (
	"hash/maphash"
	"sync/atomic"
	"unsafe"

	"theseus/internal/must"
)

// table finds the entry of a key: an extendible hash table with one writer, and
// readers that take no lock. A directory of segments is indexed by the top bits
// of the hash; a segment that is full is split alone, so that no put ever waits
// for the whole table to grow. A reader that holds a segment just replaced misses
// only keys that are newer than what it reads.
type table struct {
	seed maphash.Seed
	dir  atomic.Pointer[directory]
}

type directory struct {
	depth    uint // of the hash's top bits that choose the segment
	segments []atomic.Pointer[segment]
}

// tag is 32 bits of a key's hash. The top ones choose the segment, the low ones
// the place in it, and all together spare most looks at a key.
type tag uint32

// segment holds entries whose tags share their top depth bits, by linear probing.
// A place is free (tag 0), deleted (tag 1) or taken; a deleted place becomes free
// by splitting or rewriting only, so that a reader never misses an entry.
type segment struct {
	depth uint
	used  int // places that are not free; of the writer
	live  int // entries; of the writer
	tags  [segmentPlaces]atomic.Uint32
	slots [segmentPlaces]atomic.Pointer[entry]
}

const (
	segmentPlaces = 256
	segmentFull   = segmentPlaces * 3 / 4
	tagDeleted    = 1
	tagTaken      = 2  // set in every tag
	maxTableDepth = 22 // the bits of a tag that are not of the place: for 500 million keys
)

func newTag(hash uint64) tag { return tag(hash>>32) | tagTaken }

// place is where in a segment the search begins.
func (t tag) place() uint { return uint(t >> 2) }

func newTable() *table {
	t := &table{seed: maphash.MakeSeed()}
	d := &directory{segments: make([]atomic.Pointer[segment], 1)}
	d.segments[0].Store(&segment{})
	t.dir.Store(d)
	return t
}

func (t *table) tag(key []byte) tag { return newTag(maphash.Bytes(t.seed, key)) }

func (d *directory) index(t tag) uint {
	return uint(t) >> (32 - d.depth)
}

// get returns the entry of a key, nil if there is none. Any goroutine may call it.
func (t *table) get(tag tag, key []byte) *entry {
	d := t.dir.Load()
	return d.segments[d.index(tag)].Load().get(tag, stringOf(key))
}

func (s *segment) get(t tag, key string) *entry {
	for i := t.place(); ; i++ {
		place := i % segmentPlaces
		switch s.tags[place].Load() {
		case 0:
			return nil
		case uint32(t):
			if e := s.slots[place].Load(); e != nil && e.key == key {
				return e
			}
		}
	}
}

// add adds an entry whose key is not in the table. Only the writer calls it.
func (t *table) add(e *entry) {
	for {
		d := t.dir.Load()
		s := d.segments[d.index(e.tag)].Load()
		if s.used < segmentFull {
			s.add(e.tag, e)
			return
		}
		t.split(d, s, e.tag)
	}
}

func (s *segment) add(t tag, e *entry) {
	for i := t.place(); ; i++ {
		place := i % segmentPlaces
		if s.tags[place].Load() == 0 {
			s.slots[place].Store(e)
			s.tags[place].Store(uint32(t)) // after the slot: a reader looks at the tag first
			s.used++
			s.live++
			return
		}
	}
}

// remove takes an entry out. Only the writer calls it.
func (t *table) remove(e *entry) {
	d := t.dir.Load()
	s := d.segments[d.index(e.tag)].Load()
	for i := e.tag.place(); ; i++ {
		place := i % segmentPlaces
		switch {
		case s.tags[place].Load() == 0:
			return
		case s.slots[place].Load() == e:
			s.tags[place].Store(tagDeleted)
			s.slots[place].Store(nil)
			s.live--
			return
		}
	}
}

// split makes room in a full segment: it is written anew where it is full of
// deleted places, and else split in two.
func (t *table) split(d *directory, s *segment, at tag) {
	if s.live < segmentFull/2 {
		fresh := &segment{depth: s.depth}
		s.each(fresh.add)
		d.replace(at, s.depth, fresh)
		return
	}
	must.True(s.depth < maxTableDepth, "%d keys share %d bits of a seeded hash", s.live, s.depth)
	if s.depth == d.depth {
		d = d.double()
		t.dir.Store(d)
	}
	bit := tag(1) << (31 - s.depth)
	low, high := &segment{depth: s.depth + 1}, &segment{depth: s.depth + 1}
	s.each(func(t tag, e *entry) {
		if t&bit == 0 {
			low.add(t, e)
		} else {
			high.add(t, e)
		}
	})
	d.replace(at&^bit, s.depth+1, low)
	d.replace(at|bit, s.depth+1, high)
}

func (s *segment) each(fn func(tag, *entry)) {
	for i := range s.slots {
		if e := s.slots[i].Load(); e != nil {
			fn(tag(s.tags[i].Load()), e)
		}
	}
}

// replace points all places of the directory that share the tag's top bits at s.
func (d *directory) replace(t tag, depth uint, s *segment) {
	span := uint(1) << (d.depth - depth)
	from := d.index(t) &^ (span - 1)
	for i := from; i < from+span; i++ {
		d.segments[i].Store(s)
	}
}

func (d *directory) double() *directory {
	twice := &directory{depth: d.depth + 1, segments: make([]atomic.Pointer[segment], 2*len(d.segments))}
	for i := range twice.segments {
		twice.segments[i].Store(d.segments[i/2].Load())
	}
	return twice
}

// stringOf reinterprets b, which must not change as long as the string is in use.
func stringOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
