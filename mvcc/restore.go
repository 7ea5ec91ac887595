package mvcc

import (
	"encoding/binary"
	"fmt"
	"slices"

	"theseus/backend"
)

// restore fills the index from the file. Nobody else uses the store yet.
func (s *Store) restore(attach func(id int64, key []byte)) error {
	return s.b.View(func(v *backend.View) error {
		r := restorer{s: s}
		err := v.Scan(keyBucket, nil, nil, r.add)
		if r.err != nil {
			err = r.err
		}
		if err != nil {
			return err
		}
		s.rev.Store(max(s.rev.Load(), r.rev))
		r.finish(attach)
		return s.restoreMarks(v)
	})
}

// restoreMarks takes up the compactions. The current revision is at least that of
// the last one: the newest record may have been a tombstone that it removed.
func (s *Store) restoreMarks(v *backend.View) error {
	finished, err := mark(v, finishedKey)
	if err != nil {
		return err
	}
	scheduled, err := mark(v, scheduledKey)
	if err != nil {
		return err
	}
	s.rev.Store(max(s.rev.Load(), finished, scheduled))
	s.finished.Store(finished)
	s.compacted.Store(max(finished, scheduled))
	if scheduled > finished {
		s.schedule(scheduled)
		s.torn.Store(scheduled) // it may have removed some in the life before
	}
	return nil
}

// mark reads the main revision of a compaction's mark, -1 if there is none.
func mark(v *backend.View, key []byte) (rev int64, err error) {
	rev = -1
	scanErr := v.Scan(metaBucket, key, append(slices.Clone(key), 0), func(k, value []byte) bool {
		var at stamp
		if at, err = parseStamp(value); err != nil {
			err = fmt.Errorf("bucket %q: %s: %w", metaBucket, key, err)
		}
		rev = at.main
		return false
	})
	if err == nil {
		err = scanErr
	}
	return rev, err
}

// restorer gathers the keys in the order of their first records.
type restorer struct {
	s       *Store
	entries []*entry
	rev     int64 // of the record at hand
	err     error
	// Entries and records are made in blocks.
	spareEntries []entry
	spareRecords []record
}

// blockEntries is how many entries a block has. A block is given back when all
// its keys are gone, so that it should not be large.
const blockEntries = 16

// add takes one record. Its value is in the file's map, where it may stay until
// the restore is over: only the newest of each key is copied then.
func (r *restorer) add(k, v []byte) bool {
	at, err := parseStamp(k)
	if err != nil {
		r.err = err
		return false
	}
	f, err := parse(v)
	if err != nil {
		r.err = fmt.Errorf("bucket %q: revision %d.%d: %w", keyBucket, at.main, at.rev().Sub, err)
		return false
	}
	tag := r.s.table.tag(f.key)
	e := r.s.table.get(tag, f.key)
	var rec *record
	if e == nil {
		e, rec = r.newEntry()
		e.key, e.tag = string(f.key), tag
		e.head.Store(rec)
		r.s.table.add(e)
		r.entries = append(r.entries, e)
	} else {
		rec = e.head.Load() // nobody else sees it: changed in place
		rec.older = append(rec.older, rec.stamp)
	}
	rec.stamp = at
	rec.create, rec.version, rec.lease, rec.raw = f.create, f.version, f.lease, v
	if at.tomb() {
		rec.create, rec.version, rec.lease, rec.raw = 0, 0, 0, nil
	}
	r.rev = at.main
	return true
}

func (r *restorer) newEntry() (*entry, *record) {
	if len(r.spareEntries) == 0 {
		r.spareEntries, r.spareRecords = make([]entry, blockEntries), make([]record, blockEntries)
	}
	e, rec := &r.spareEntries[0], &r.spareRecords[0]
	r.spareEntries, r.spareRecords = r.spareEntries[1:], r.spareRecords[1:]
	return e, rec
}

// finish copies the values that have room in memory, and puts the keys in order.
func (r *restorer) finish(attach func(id int64, key []byte)) {
	room := &r.s.room
	for _, e := range r.entries {
		rec := e.head.Load()
		if rec.raw == nil {
			continue
		}
		if room.taken+int64(len(rec.raw)) > room.budget {
			rec.raw = nil
			continue
		}
		rec.raw = append(make([]byte, 0, len(rec.raw)), rec.raw...)
		room.taken += int64(len(rec.raw))
	}
	sortEntries(r.entries)
	r.s.tree.load(r.entries)
	if attach == nil {
		return
	}
	for _, e := range r.entries {
		if lease := e.head.Load().lease; lease != 0 {
			attach(lease, []byte(e.key))
		}
	}
}

// sortEntries orders entries by key. Keys share long prefixes and lie all over
// the memory, which makes comparing them dear: so it sorts numbers made of their
// next eight bytes, and looks deeper only where those are equal.
func sortEntries(entries []*entry) {
	if slices.IsSortedFunc(entries, byKey) {
		return
	}
	items := make([]sortItem, len(entries))
	prefix := entries[0].key
	for i, e := range entries {
		items[i].e = e
		prefix = prefix[:commonLen(prefix, e.key)]
	}
	sortItems(items, len(prefix))
	for i := range items {
		entries[i] = items[i].e
	}
}

type sortItem struct {
	word uint64 // the key's bytes from some depth on
	e    *entry
}

// fewItems are sorted by comparing whole keys.
const fewItems = 16

// sortItems sorts items whose keys are equal in their first depth bytes.
func sortItems(items []sortItem, depth int) {
	if len(items) <= fewItems {
		slices.SortFunc(items, func(a, b sortItem) int { return byKey(a.e, b.e) })
		return
	}
	for i := range items {
		items[i].word = wordAt(items[i].e.key, depth)
	}
	slices.SortFunc(items, func(a, b sortItem) int {
		switch {
		case a.word < b.word:
			return -1
		case a.word > b.word:
			return 1
		}
		return 0
	})
	for from := 0; from < len(items); {
		to, short := from, false
		for ; to < len(items) && items[to].word == items[from].word; to++ {
			short = short || len(items[to].e.key) <= depth+8
		}
		same := items[from:to]
		from = to
		switch {
		case len(same) == 1:
		case short: // a key that ends here, padded with zeros, looks like one that has them
			slices.SortFunc(same, func(a, b sortItem) int { return byKey(a.e, b.e) })
		default:
			sortItems(same, depth+8)
		}
	}
}

// wordAt returns eight bytes of a key, padded with zeros, such that words compare
// as the bytes do.
func wordAt(key string, depth int) uint64 {
	if len(key) >= depth+8 {
		return binary.BigEndian.Uint64([]byte(key[depth : depth+8]))
	}
	var b [8]byte
	copy(b[:], key[min(depth, len(key)):])
	return binary.BigEndian.Uint64(b[:])
}

func commonLen(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
