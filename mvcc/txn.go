package mvcc

import (
	"math/bits"

	"theseus/internal/must"
)

// Event is one change of one key.
type Event struct {
	Delete bool
	Rev    Rev
	Key    []byte
	// Raw is the encoded KeyValue that watchers get: the whole of a put, key and
	// mod_revision of a delete.
	Raw []byte
	// Prev is the encoded KeyValue before the change, nil if there was none. Only
	// Txn.End reports it; for what Store.Events reports, ask Store.Prev.
	Prev []byte
	// Create is the create_revision of a put; it equals Rev.Main when the key is new.
	Create int64
	// Lease and PrevLease are the lease ids of the new and of the previous record.
	// Only Txn.End reports PrevLease.
	Lease, PrevLease int64
}

// Txn is a write transaction. It sees its own changes. It must not be used after End.
type Txn struct {
	// Deleted holds the events of the last DeleteRange.
	Deleted []Event

	s      *Store
	begin  int64 // revision at Begin
	events []Event
}

// Begin starts the write transaction, of which there is one at a time, on the
// writer's goroutine and inside a unit of the backend.
func (s *Store) Begin() *Txn {
	must.True(s.txn.s == nil, "Begin within a transaction")
	s.txn = Txn{s: s, begin: s.rev.Load()}
	return &s.txn
}

// Rev returns the revision at Begin, plus one once the transaction has changed something.
func (t *Txn) Rev() int64 {
	if len(t.events) > 0 {
		return t.begin + 1
	}
	return t.begin
}

// Get returns the value of key as the transaction sees it.
func (t *Txn) Get(key []byte) (KV, bool) {
	kv, ok, err := t.s.lookup(t.s.table.get(t.s.table.tag(key), key), t.Rev())
	if err != nil {
		panic(lost(string(key), err))
	}
	return kv, ok
}

// Range reads as the transaction sees it.
func (t *Txn) Range(o RangeOptions) (RangeResult, error) {
	rev, err := t.s.readRev(o.Rev, t.Rev())
	if err != nil {
		return RangeResult{Rev: t.Rev()}, err
	}
	res, err := t.s.read(&o, rev)
	res.Rev = t.Rev()
	return res, err
}

// Put sets key and returns what it held before (zero: nothing) and the revision
// of the change. It copies both slices.
func (t *Txn) Put(key, value []byte, lease int64) (prev KV, rev int64) {
	s := t.s
	at := stamp{main: t.begin + 1, sub: uint64(len(t.events)) << 1}
	f := fields{key: key, create: at.main, mod: at.main, version: 1, value: value, lease: lease}
	tag := s.table.tag(key)
	e := s.table.get(tag, key)
	var old *record
	if e != nil {
		old = e.head.Load()
		if !old.tomb() {
			prev = t.previous(e, old)
			f.create, f.version = old.create, old.version+1
		}
	}
	// The record's key in the file and its value share one buffer with the index,
	// the backend and the watchers.
	buf := at.appendKey(make([]byte, 0, revBytes+f.size()))
	buf = f.append(buf)
	raw := buf[revBytes:]
	s.b.Put(keyBucket, buf[:revBytes:revBytes], raw)
	r := &record{stamp: at, create: f.create, version: f.version, lease: lease, raw: raw}
	r.succeeds(old)
	s.room.taken += int64(len(raw))
	if old != nil {
		s.room.taken -= int64(len(old.raw))
	}
	switch {
	case e == nil:
		e = &entry{key: string(key), tag: tag}
		e.head.Store(r)
		s.table.add(e)
		s.tree.insert(e, at.main)
	case old.tomb():
		e.head.Store(r)
		s.tree.setLive(e.key, at.main, true)
	default:
		e.head.Store(r)
	}
	t.events = append(t.events, Event{
		Rev: at.rev(), Key: keyIn(raw, len(key)), Raw: raw, Prev: prev.Raw, Create: f.create, Lease: lease, PrevLease: prev.Lease,
	})
	return prev, at.main
}

// previous returns the live record that a change replaces.
func (t *Txn) previous(e *entry, old *record) KV {
	raw, err := t.s.raw(e, old)
	if err != nil {
		panic(lost(e.key, err))
	}
	return KV{Raw: raw, Create: old.create, Mod: old.main, Version: old.version, Lease: old.lease}
}

// DeleteRange deletes the keys of the interval and returns how many there were.
func (t *Txn) DeleteRange(key, end []byte) (n int64) {
	iv := newInterval(key, end)
	before := len(t.events)
	if iv.one {
		if e := t.s.table.get(t.s.table.tag(key), key); e != nil && !e.head.Load().tomb() {
			t.delete(e)
			t.s.tree.setLive(e.key, t.begin+1, false)
		}
	} else if !iv.empty() {
		t.deleteLeaves(&iv)
	}
	t.Deleted = t.events[before:len(t.events):len(t.events)]
	return int64(len(t.Deleted))
}

// deleteLeaves deletes leaf by leaf, so that the counts above are touched once
// for each.
func (t *Txn) deleteLeaves(iv *interval) {
	from := true
	for c := t.s.tree.seek(iv.from); c.leaf != nil; c.next() {
		l := c.leaf
		if l.n == 0 {
			continue
		}
		to := iv.bounded && l.entries[l.n-1].key >= iv.to
		gone := l.within(iv, from, to) & l.live.Load()
		for m := gone; m != 0; m &= m - 1 {
			t.delete(l.entries[bits.TrailingZeros32(m)])
		}
		if gone != 0 {
			c.flip(t.begin+1, gone)
		}
		if to {
			return
		}
		from = false
	}
}

// flip notes that entries of the cursor's leaf died at main.
func (c *cursor) flip(main int64, gone uint32) {
	by := -int64(bits.OnesCount32(gone))
	for i := range c.depth {
		s := &c.path[i]
		s.in.place[s.i].change(main, by)
	}
	c.leaf.flip(main, gone, false)
}

// delete writes the tombstone of a live entry.
func (t *Txn) delete(e *entry) {
	s := t.s
	old := e.head.Load()
	prev := t.previous(e, old)
	at := newStamp(Rev{t.begin + 1, int64(len(t.events))}, true)
	// The record's value is the key alone; what watchers get has the revision behind it.
	f := fields{key: []byte(e.key)}
	size := f.size()
	f.mod = at.main
	buf := at.appendKey(make([]byte, 0, tombBytes+f.size()))
	buf = f.append(buf)
	raw := buf[tombBytes:]
	s.b.Put(keyBucket, buf[:tombBytes:tombBytes], raw[:size:size])
	r := &record{stamp: at}
	r.succeeds(old)
	e.head.Store(r)
	s.room.taken -= int64(len(old.raw))
	t.events = append(t.events, Event{
		Delete: true, Rev: at.rev(), Key: keyIn(raw, len(e.key)), Raw: raw, Prev: prev.Raw, PrevLease: prev.Lease,
	})
}

// End publishes the changes and returns them in order.
func (t *Txn) End() []Event {
	s := t.s
	events := t.events
	if len(events) > 0 {
		s.rev.Store(t.begin + 1)
		s.makeRoom()
		s.holdTree(len(events))
	}
	*t = Txn{}
	return events
}
