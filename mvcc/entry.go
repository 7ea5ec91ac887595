package mvcc

import (
	"sort"
	"strings"
	"sync/atomic"
)

// entry is a key that the index knows: one that is live, or one whose history is
// not compacted away. The writer replaces its record; readers take what they find
// and look back in it to their revision.
type entry struct {
	key  string
	tag  tag
	head atomic.Pointer[record]
	// used tells that a reader took the value since the last look at the entry by
	// whoever makes room in memory.
	used atomic.Bool
}

// record is the newest state of a key. It is immutable once it is in an entry, so
// that a reader needs no lock. (A restore, before there are readers, changes it.)
type record struct {
	stamp
	create, version, lease int64
	// raw is the encoded KeyValue; nil for a tombstone, and for a value that has no
	// room in memory.
	raw []byte
	// older holds the earlier records of the key that are not compacted, in
	// ascending order. Successive records share one array: the next one appends
	// behind what this one sees.
	older []stamp
}

// at returns the newest stamp of the key at a main revision, and whether it is
// the record's own; ok is false if there is none.
func (r *record) at(rev int64) (s stamp, own, ok bool) {
	if r.main <= rev {
		return r.stamp, true, true
	}
	n := newerThan(r.older, rev)
	if n == 0 {
		return stamp{}, false, false
	}
	return r.older[n-1], false, true
}

// live tells whether the key exists at a main revision.
func (r *record) live(rev int64) bool {
	s, _, ok := r.at(rev)
	return ok && !s.tomb()
}

// newerThan returns the place of the first stamp above a main revision.
func newerThan(stamps []stamp, rev int64) int {
	n := len(stamps)
	if n == 0 || stamps[n-1].main <= rev {
		return n
	}
	return sort.Search(n, func(i int) bool { return stamps[i].main > rev })
}

// succeeds makes r the record after old, which may be nil.
func (r *record) succeeds(old *record) {
	if old != nil {
		r.older = append(old.older, old.stamp)
	}
}

// lastFlip is the main revision of the newest change of whether the key exists,
// or a later one.
func (r *record) lastFlip() int64 {
	if r.tomb() || r.create > r.main {
		return r.main
	}
	return r.create
}

// interval is a key range; to is ignored unless bounded.
type interval struct {
	from, to string
	bounded  bool
	one      bool // the one key from
}

// newInterval reads a range as the wire has it. Its strings alias key and end,
// which must not change as long as the interval is in use.
func newInterval(key, end []byte) interval {
	switch {
	case len(end) == 0:
		return interval{from: stringOf(key), one: true}
	case len(end) == 1 && end[0] == 0:
		return interval{from: stringOf(key)}
	}
	return interval{from: stringOf(key), to: stringOf(end), bounded: true}
}

func (iv *interval) empty() bool { return iv.bounded && iv.to <= iv.from }

// everything is the interval of all keys, also of the empty one that a restore
// with a bumped revision makes and that no request can name.
var everything = interval{}

func byKey(a, b *entry) int { return strings.Compare(a.key, b.key) }
