package mvcc

import (
	"fmt"
	"sync/atomic"

	"theseus/api"
	"theseus/backend"
)

// Options configures Open.
type Options struct {
	// ValueBudgetBytes bounds the encoded newest values that are kept in memory;
	// values beyond it are read from the file. Default 1 GiB; negative: none.
	ValueBudgetBytes int64
	// AttachLease is called by Open, in key order, for each key whose newest record
	// names a lease.
	AttachLease func(id int64, key []byte)
}

const defaultBudgetBytes = 1 << 30

// Store is the multi-version store.
type Store struct {
	b     *backend.Backend
	table *table
	tree  *tree

	// What readers see: everything up to rev. A reader takes rev first, and looks at
	// compacted last: if that has passed the revision it read at, records may have
	// gone under its hands.
	rev       atomic.Int64
	compacted atomic.Int64 // -1: never
	// under and finished are the compaction at work and the last one done; -1: none.
	under, finished atomic.Int64
	// torn is the compaction that has begun to remove records, so that it is too late
	// to hash what it finds.
	torn          atomic.Int64
	compactHashes compactHashes
	// tight is set while memory is short: readers then note which values they use.
	tight atomic.Bool

	// Of the writer.
	txn   Txn
	room  room
	sweep sweep

	unchecked int64 // changes since the index was checked, where costly assertions run
}

// Open restores the index from the backend.
func Open(b *backend.Backend, o Options) (*Store, error) {
	if o.ValueBudgetBytes == 0 {
		o.ValueBudgetBytes = defaultBudgetBytes
	}
	s := &Store{b: b, table: newTable(), tree: newTree(), room: room{budget: max(o.ValueBudgetBytes, 0)}}
	s.rev.Store(1)
	s.compacted.Store(-1)
	s.under.Store(-1)
	s.finished.Store(-1)
	s.torn.Store(-1)
	if err := b.CreateBuckets(keyBucket, metaBucket); err != nil {
		return nil, err
	}
	if err := s.restore(o.AttachLease); err != nil {
		return nil, fmt.Errorf("restore keys: %w", err)
	}
	return s, nil
}

// Revision returns the current and the compacted revision (-1: never compacted).
func (s *Store) Revision() (current, compacted int64) {
	current = s.rev.Load()
	return current, s.compacted.Load()
}

// Len returns the number of keys that exist.
func (s *Store) Len() int64 { return s.tree.count(&everything, s.rev.Load()) }

// Get returns the newest value of key. Any goroutine may call it.
func (s *Store) Get(key []byte) (KV, bool) {
	tag := s.table.tag(key)
	for {
		rev := s.rev.Load()
		kv, ok, err := s.lookup(s.table.get(tag, key), rev)
		if s.compacted.Load() > rev {
			continue // the value may have been removed under our hands: read anew
		}
		if err != nil {
			panic(lost(string(key), err))
		}
		return kv, ok
	}
}

// lookup returns what an entry, which may be nil, has at a main revision. An
// error means that the record is not where the index says, which a compaction
// that has passed rev explains.
func (s *Store) lookup(e *entry, rev int64) (KV, bool, error) {
	if e == nil {
		return KV{}, false, nil
	}
	return s.valueOf(e, e.head.Load(), rev)
}

// valueOf is lookup in a record of an entry.
func (s *Store) valueOf(e *entry, r *record, rev int64) (KV, bool, error) {
	at, own, ok := r.at(rev)
	if !ok || at.tomb() {
		return KV{}, false, nil
	}
	if own {
		raw, err := s.raw(e, r)
		return KV{Raw: raw, Create: r.create, Mod: r.main, Version: r.version, Lease: r.lease}, true, err
	}
	raw, err := s.fetch(at)
	if err != nil {
		return KV{}, false, err
	}
	f, err := parse(raw)
	return f.kv(raw), true, err
}

// lost is what to panic with where an error of lookup has no explanation.
func lost(key string, err error) string {
	return fmt.Sprintf("invariant broken: read key %q: %v", key, err)
}

// raw returns the value of the newest record of an entry.
func (s *Store) raw(e *entry, r *record) ([]byte, error) {
	if r.raw == nil {
		return s.fetch(r.stamp)
	}
	if s.tight.Load() && !e.used.Load() {
		e.used.Store(true)
	}
	return r.raw, nil
}

// fetch reads a record that is not in memory.
func (s *Store) fetch(at stamp) ([]byte, error) {
	var key [tombBytes]byte
	raw := s.b.Get(keyBucket, at.appendKey(key[:0]))
	if raw == nil {
		return nil, fmt.Errorf("revision %d.%d is in the index and not in the file", at.main, at.rev().Sub)
	}
	return raw, nil
}

// Prev returns the encoded KeyValue that e replaced: nil if there was none or if
// it is compacted. Any goroutine may call it.
func (s *Store) Prev(e *Event) []byte {
	if e.Prev != nil || !e.Delete && e.Create == e.Rev.Main {
		return e.Prev
	}
	before := e.Rev.Main - 1
	kv, ok, err := s.lookup(s.table.get(s.table.tag(e.Key), e.Key), before)
	if before < s.compacted.Load() {
		return nil
	}
	if err != nil {
		panic(lost(string(e.Key), err))
	}
	if !ok {
		return nil
	}
	return kv.Raw
}

// readRev turns the revision that a read asks for into the one it gets.
func (s *Store) readRev(want, current int64) (int64, error) {
	switch {
	case want <= 0:
		return current, nil
	case want > current:
		return 0, api.ErrFutureRev
	case want < s.compacted.Load():
		return 0, api.ErrCompacted
	}
	return want, nil
}
