package backend

import (
	"sort"

	"github.com/tidwall/btree"
)

// layer holds writes that are not in the file yet. Only the active layer of a
// backend changes, under the backend's lock; a sealed one is immutable.
type layer struct {
	runs map[Bucket]*run
	// last and lastRun remember the bucket of the newest write: most go to one.
	last    Bucket
	lastRun *run
	ops     int
	bytes   int64
	waiters []*Snapshot // who wants to know when the layer is in the file
}

// run holds the pending writes of one bucket. Keys that arrive in ascending
// order, as new revisions do, are appended to asc, which costs next to nothing;
// all others go to rest. Since asc only grows upwards, a key that is in both was
// in asc first: rest wins.
type run struct {
	asc  []record
	rest btree.Map[string, []byte]
}

// record is one pending write. A nil value deletes the key.
type record struct {
	key   string
	value []byte
}

// overheadBytes is what a pending write costs beside its key and value.
const overheadBytes = 48

func newLayer(sizeHint int) *layer {
	l := &layer{runs: make(map[Bucket]*run, 8)}
	if sizeHint > 0 {
		l.run("key").asc = make([]record, 0, sizeHint)
	}
	return l
}

func (l *layer) run(bucket Bucket) *run {
	if l.last == bucket {
		return l.lastRun
	}
	r := l.runs[bucket]
	if r == nil {
		r = &run{}
		l.runs[bucket] = r
	}
	l.last, l.lastRun = bucket, r
	return r
}

// write notes one operation and returns the bytes it adds.
func (l *layer) write(bucket Bucket, key, value []byte) int64 {
	r := l.run(bucket)
	n := int64(len(key) + len(value) + overheadBytes)
	// The caller never modifies the slice again, so that a string may share it.
	rec := record{stringOf(key), value}
	if k := len(r.asc); k == 0 || r.asc[k-1].key < rec.key {
		r.asc = append(r.asc, rec)
	} else if prev, replaced := r.rest.Set(rec.key, value); replaced {
		n -= int64(len(key) + len(prev) + overheadBytes)
	}
	l.ops++
	l.bytes += n
	return n
}

// get looks a key up; a nil value that is found means that it is deleted.
func (l *layer) get(bucket Bucket, key string) (value []byte, found bool) {
	r := l.runs[bucket]
	if r == nil {
		return nil, false
	}
	if r.rest.Len() > 0 {
		if value, found = r.rest.Get(key); found {
			return value, true
		}
	}
	i := seek(r.asc, key)
	if i < len(r.asc) && r.asc[i].key == key {
		return r.asc[i].value, true
	}
	return nil, false
}

// seek returns the place of the first record at or after key.
func seek(asc []record, key string) int {
	if n := len(asc); n == 0 || asc[n-1].key < key {
		return n
	}
	return sort.Search(len(asc), func(i int) bool { return asc[i].key >= key })
}

// frozen returns the runs as they are now, safe to read without a lock. On the
// active layer it needs the backend's lock exclusively.
func (l *layer) frozen(isActive bool) map[Bucket]*run {
	if !isActive {
		return l.runs
	}
	runs := make(map[Bucket]*run, len(l.runs))
	for name, r := range l.runs {
		f := &run{asc: r.asc[:len(r.asc):len(r.asc)]}
		if r.rest.Len() > 0 {
			f.rest = *r.rest.Copy()
		}
		runs[name] = f
	}
	return runs
}

// settle tells the waiters: the layer is in the file, as view shows, or err.
func (l *layer) settle(view *fileView, err error) {
	for _, s := range l.waiters {
		if err == nil {
			s.view = view.acquire()
		}
		s.err = err
		close(s.ready)
	}
	l.waiters = nil
}

// runCursor walks a frozen run in key order.
type runCursor struct {
	asc  []record
	rest btree.MapIter[string, []byte]
	more bool   // rest has an element
	cur  record // valid unless done
	done bool
}

func (r *run) cursor(from string) *runCursor {
	c := &runCursor{asc: r.asc[seek(r.asc, from):]}
	if r.rest.Len() > 0 {
		c.rest = r.rest.Iter()
		c.more = c.rest.Seek(from)
	}
	c.next()
	return c
}

func (c *runCursor) next() {
	switch {
	case c.more && (len(c.asc) == 0 || c.rest.Key() <= c.asc[0].key):
		c.cur = record{c.rest.Key(), c.rest.Value()}
		if len(c.asc) > 0 && c.asc[0].key == c.cur.key {
			c.asc = c.asc[1:]
		}
		c.more = c.rest.Next()
	case len(c.asc) > 0:
		c.cur = c.asc[0]
		c.asc = c.asc[1:]
	default:
		c.done = true
	}
}
