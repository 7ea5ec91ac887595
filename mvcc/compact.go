package mvcc

import (
	"math/bits"

	"theseus/api"
)

// sweep is the removal of superseded records, in pieces. It belongs to the writer.
type sweep struct {
	queue []int64 // revisions scheduled, oldest first; the first one is at work
	from  string  // the keys before it are done
	gone  []*entry
	keys  []byte // room for the keys of removed records
}

// Compact forgets, logically, what is older than rev: from now on reads below
// rev fail. The space goes by CompactStep. It fails with api.ErrCompacted or
// api.ErrFutureRev. It belongs to the writer, inside a unit of the backend and
// outside of a transaction.
func (s *Store) Compact(rev int64) error {
	switch {
	case rev <= s.compacted.Load():
		return api.ErrCompacted
	case rev > s.rev.Load():
		return api.ErrFutureRev
	}
	s.compacted.Store(rev)
	s.b.Put(metaBucket, scheduledKey, mainKey(rev))
	s.schedule(rev)
	return nil
}

func (s *Store) schedule(rev int64) {
	s.sweep.queue = append(s.sweep.queue, rev)
	if len(s.sweep.queue) == 1 {
		s.under.Store(rev)
	}
}

// Compacting returns the revision of the compaction at work, and of the last
// finished one; -1 is none. Any goroutine may call it.
func (s *Store) Compacting() (under, finished int64) { return s.under.Load(), s.finished.Load() }

// looksPerRecord is how many keys a step may look at for each record that it may remove.
const looksPerRecord = 8

// CompactStep removes about max superseded records at most (a key's go together), and reports whether
// there is more to do. It belongs to the writer, inside a unit of the backend and
// outside of a transaction.
func (s *Store) CompactStep(max int) (more bool) {
	w := &s.sweep
	if len(w.queue) == 0 {
		return false
	}
	s.torn.Store(w.queue[0])
	done := s.sweepKeys(w.queue[0], max, max*looksPerRecord)
	for _, e := range w.gone {
		s.tree.remove(e.key)
		s.table.remove(e)
	}
	clear(w.gone)
	w.gone = w.gone[:0]
	if done {
		s.finishSweep()
	}
	return len(w.queue) > 0
}

// sweepKeys goes on over the keys and reports whether it came to their end.
func (s *Store) sweepKeys(rev int64, records, looks int) (done bool) {
	w := &s.sweep
	iv := interval{from: w.from}
	first := true
	for c := s.tree.seek(w.from); c.leaf != nil; c.next() {
		l := c.leaf
		for m := l.within(&iv, first, false); m != 0; m &= m - 1 {
			e := l.entries[bits.TrailingZeros32(m)]
			if records <= 0 || looks <= 0 {
				w.from = e.key
				return false
			}
			records -= s.compactEntry(e, rev)
			looks--
		}
		first = false
	}
	return true
}

// compactEntry removes what a compaction at rev does not keep of a key, and
// returns how many records that were.
//
// Of the records up to rev the newest is kept, unless it is a tombstone below
// rev: a tombstone at rev itself stays until the next compaction. (That is etcd's
// rule from 3.4.34 and 3.5.16 on.)
func (s *Store) compactEntry(e *entry, rev int64) (removed int) {
	r := e.head.Load()
	if r.main <= rev {
		if !r.tomb() && len(r.older) == 0 {
			return 0 // by far the most
		}
		removed = s.removeRecords(r.older)
		if r.tomb() && r.main < rev {
			s.sweep.gone = append(s.sweep.gone, e)
			return removed + s.removeRecords([]stamp{r.stamp})
		}
		if removed > 0 {
			s.trim(e, r, nil)
		}
		return removed
	}
	n := newerThan(r.older, rev)
	if n == 0 {
		return 0
	}
	if last := r.older[n-1]; !last.tomb() || last.main == rev {
		n--
	}
	if n > 0 {
		removed = s.removeRecords(r.older[:n])
		s.trim(e, r, r.older[n:])
	}
	return removed
}

// trim gives an entry a shorter history.
func (s *Store) trim(e *entry, r *record, older []stamp) {
	short := *r
	short.older = older
	if len(older) == 0 {
		short.older = nil // let go of the array
	}
	e.head.Store(&short)
}

// removeRecords deletes records from the file and returns their number.
func (s *Store) removeRecords(stamps []stamp) int {
	w := &s.sweep
	for _, at := range stamps {
		if cap(w.keys)-len(w.keys) < tombBytes {
			w.keys = make([]byte, 0, 256*tombBytes) // the backend keeps the old one
		}
		from := len(w.keys)
		w.keys = at.appendKey(w.keys)
		s.b.Delete(keyBucket, w.keys[from:len(w.keys):len(w.keys)])
	}
	return len(stamps)
}

// finishSweep notes that a compaction is done and begins the next one.
func (s *Store) finishSweep() {
	w := &s.sweep
	rev := w.queue[0]
	s.b.Put(metaBucket, finishedKey, mainKey(rev))
	s.compactHashes.finish(rev)
	w.queue = w.queue[1:]
	w.from = ""
	s.under.Store(-1)
	if len(w.queue) > 0 {
		s.under.Store(w.queue[0])
	}
	s.finished.Store(rev)
}
