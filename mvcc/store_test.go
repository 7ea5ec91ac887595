package mvcc

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"theseus/api"
	"theseus/backend"
)

// fixture is a store on a file, with what a test needs to open it again.
type fixture struct {
	t    testing.TB
	path string
	o    Options
	b    *backend.Backend
	s    *Store
}

func newFixture(t testing.TB, o Options) *fixture {
	t.Helper()
	f := &fixture{t: t, path: filepath.Join(t.TempDir(), "db"), o: o}
	f.open()
	t.Cleanup(func() { _ = f.b.Close() })
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	b, err := backend.Open(backend.Options{Path: f.path, NoSync: true})
	if err != nil {
		f.t.Fatal(err)
	}
	f.b = b
	if f.s, err = Open(b, f.o); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) reopen() {
	f.t.Helper()
	if err := f.b.Close(); err != nil {
		f.t.Fatal(err)
	}
	f.open()
}

// unit runs a write transaction.
func (f *fixture) unit(fn func(t *Txn)) []Event {
	f.b.Begin()
	defer f.b.End()
	t := f.s.Begin()
	fn(t)
	return t.End()
}

func (f *fixture) put(k, v string) { f.unit(func(t *Txn) { t.Put([]byte(k), []byte(v), 0) }) }
func (f *fixture) del(k string)    { f.unit(func(t *Txn) { t.DeleteRange([]byte(k), nil) }) }

func (f *fixture) compact(rev int64) error {
	f.b.Begin()
	defer f.b.End()
	return f.s.Compact(rev)
}

func (f *fixture) compactStep(n int) bool {
	f.b.Begin()
	defer f.b.End()
	return f.s.CompactStep(n)
}

// compacted compacts and removes all that goes.
func (f *fixture) compacted(rev int64) {
	f.t.Helper()
	if err := f.compact(rev); err != nil {
		f.t.Fatal(err)
	}
	for f.compactStep(100) {
	}
}

func (f *fixture) hash(rev int64) Hash {
	f.t.Helper()
	h, err := f.s.HashKV(rev)
	if err != nil {
		f.t.Fatal(err)
	}
	return h
}

// records returns the whole bucket: what a raw comparison of files would see.
func (f *fixture) records() map[string]string {
	f.t.Helper()
	all := map[string]string{}
	err := f.b.Scan(keyBucket, nil, nil, func(k, v []byte) bool {
		all[string(k)] = string(v)
		return true
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return all
}

// TestStoredBytes has the observed records of real etcd.
func TestStoredBytes(t *testing.T) {
	f := newFixture(t, Options{})
	f.put("a", "1")
	f.put("a", "2")
	f.del("a")
	f.unit(func(t *Txn) {
		t.Put([]byte("k"), nil, 0x7f8ca1fcf9b25407)
		t.Put([]byte("l"), []byte{}, 0)
	})
	want := map[string]string{
		"\x00\x00\x00\x00\x00\x00\x00\x02_\x00\x00\x00\x00\x00\x00\x00\x00":  "\x0a\x01a\x10\x02\x18\x02\x20\x01\x2a\x011",
		"\x00\x00\x00\x00\x00\x00\x00\x03_\x00\x00\x00\x00\x00\x00\x00\x00":  "\x0a\x01a\x10\x02\x18\x03\x20\x02\x2a\x012",
		"\x00\x00\x00\x00\x00\x00\x00\x04_\x00\x00\x00\x00\x00\x00\x00\x00t": "\x0a\x01a",
		"\x00\x00\x00\x00\x00\x00\x00\x05_\x00\x00\x00\x00\x00\x00\x00\x00":  "\x0a\x01k\x10\x05\x18\x05\x20\x01\x30\x87\xa8\xc9\xcd\xcf\xbf\xa8\xc6\x7f",
		"\x00\x00\x00\x00\x00\x00\x00\x05_\x00\x00\x00\x00\x00\x00\x00\x01":  "\x0a\x01l\x10\x05\x18\x05\x20\x01",
	}
	if diff := cmp.Diff(want, f.records()); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// TestHashVectors are the hashes that real etcd 3.3 to 3.7 gave for the same
// operations (interop 5.8).
func TestHashVectors(t *testing.T) {
	f := newFixture(t, Options{})
	f.put("a", "1")
	f.del("a")
	if h := f.hash(0); h.Hash != 3520211144 || h.CompactRevision != -1 {
		t.Errorf("before the compaction: %+v", h)
	}
	f.put("b", "1")
	if err := f.compact(3); err != nil {
		t.Fatal(err)
	}
	check := func(state string) {
		t.Helper()
		if h := f.hash(0); h != (Hash{3584256279, 3, 4, 4}) {
			t.Errorf("%s: HashKV(0) = %+v, want 3584256279", state, h)
		}
		if h := f.hash(3); h != (Hash{1084519789, 3, 3, 4}) {
			t.Errorf("%s: HashKV(3) = %+v, want 1084519789", state, h)
		}
	}
	check("scheduled")
	for f.compactStep(1) {
	}
	check("finished")
	f.reopen()
	check("reopened")
	if _, err := f.s.HashKV(2); !errors.Is(err, api.ErrCompacted) {
		t.Errorf("HashKV below the compacted revision: %v", err)
	}
	if _, err := f.s.HashKV(5); !errors.Is(err, api.ErrFutureRev) {
		t.Errorf("HashKV of the future: %v", err)
	}
}

// TestTombstoneAtTheCompactedRevision: it stays until the next compaction.
func TestTombstoneAtTheCompactedRevision(t *testing.T) {
	f := newFixture(t, Options{})
	f.put("a", "1")
	f.del("a") // 3, the only key
	f.compacted(3)
	if n := len(f.records()); n != 1 {
		t.Errorf("%d records after compacting at the tombstone", n)
	}
	f.reopen()
	f.put("b", "1")
	f.compacted(4)
	if n := len(f.records()); n != 1 {
		t.Errorf("%d records after the next compaction", n)
	}
	if n := f.s.Len(); n != 1 || f.s.table.get(f.s.table.tag([]byte("a")), []byte("a")) != nil {
		t.Errorf("%d keys, or the dead one is still in the index", n)
	}
}

func TestCompactErrors(t *testing.T) {
	f := newFixture(t, Options{})
	for _, c := range []struct {
		rev  int64
		want error
	}{{-1, api.ErrCompacted}, {2, api.ErrFutureRev}, {0, nil}, {0, api.ErrCompacted}, {1, nil}, {1, api.ErrCompacted}} {
		if err := f.compact(c.rev); !errors.Is(err, c.want) {
			t.Errorf("compact(%d) = %v, want %v", c.rev, err, c.want)
		}
	}
}

// TestRevisionAfterRestart: the newest record is a tombstone that compactions
// removed, finished or not; the revision must not go back.
func TestRevisionAfterRestart(t *testing.T) {
	for _, steps := range []int{0, 1, 1000} {
		f := newFixture(t, Options{})
		for i := range 50 {
			f.put(fmt.Sprint("k", i), "v")
		}
		f.unit(func(t *Txn) { t.DeleteRange([]byte("k"), []byte("l")) })
		rev, _ := f.s.Revision()
		if err := f.compact(rev); err != nil {
			t.Fatal(err)
		}
		for range steps {
			f.compactStep(1)
		}
		f.reopen()
		if now, compacted := f.s.Revision(); now != rev || compacted != rev {
			t.Errorf("after %d steps and a restart: revision %d compacted %d, want %d", steps, now, compacted, rev)
		}
		under, finished := f.s.Compacting()
		if steps == 1000 && (under != -1 || finished != rev) || steps < 1000 && (under != rev || finished != -1) {
			t.Errorf("after %d steps and a restart: compacting %d, finished %d", steps, under, finished)
		}
		for f.compactStep(10) {
		}
		f.put("x", "y")
		if now, _ := f.s.Revision(); now != rev+1 {
			t.Errorf("next put at %d, want %d", now, rev+1)
		}
	}
}

// TestBumpedRevision: `etcdutl snapshot restore --bump-revision --mark-compacted`
// leaves a record without value, which is a key of no name.
func TestBumpedRevision(t *testing.T) {
	f := newFixture(t, Options{})
	f.put("a", "1")
	f.b.Begin()
	f.b.Put(keyBucket, mainKey(1_000_000), []byte{})
	f.b.Put(metaBucket, scheduledKey, mainKey(1_000_000))
	f.b.End()
	f.reopen()
	for f.compactStep(10) {
	}
	if rev, compacted := f.s.Revision(); rev != 1_000_000 || compacted != 1_000_000 {
		t.Fatalf("revision %d compacted %d", rev, compacted)
	}
	if len(f.records()) != 2 {
		t.Errorf("%d records, want that of a and the empty one", len(f.records()))
	}
	r, err := f.s.Range(RangeOptions{Key: []byte{0}, End: []byte{0}})
	if err != nil || r.Count != 1 || len(r.KVs) != 1 {
		t.Errorf("range of everything: %+v %v", r, err)
	}
	before := f.hash(0)
	f.reopen()
	if after := f.hash(0); before != after {
		t.Errorf("hash %+v, after a restart %+v", before, after)
	}
	f.put("a", "2")
	f.compacted(1_000_001)
	if len(f.records()) != 2 {
		t.Errorf("%d records after one more compaction", len(f.records()))
	}
}

func TestRestoreAttachesLeases(t *testing.T) {
	var got []string
	f := newFixture(t, Options{AttachLease: func(id int64, key []byte) { got = append(got, fmt.Sprintf("%d %s", id, key)) }})
	f.unit(func(t *Txn) {
		t.Put([]byte("c"), nil, 7)
		t.Put([]byte("a"), nil, 7)
		t.Put([]byte("b"), nil, 8)
		t.Put([]byte("d"), nil, 9)
		t.Put([]byte("e"), nil, 9)
	})
	f.put("b", "no lease now")
	f.del("d")
	got = nil
	f.reopen()
	if diff := cmp.Diff([]string{"7 a", "7 c", "9 e"}, got); diff != "" {
		t.Errorf("attached (-want +got):\n%s", diff)
	}
}

// TestDamagedRecords: what is no record of etcd is refused with its place.
func TestDamagedRecords(t *testing.T) {
	for _, c := range []struct{ bucket, key, value, want string }{
		{"key", "short", "", `restore keys: bucket "key": key 73686f7274 is no revision`},
		{"key", string(mainKey(2)) + "x", "", `restore keys: bucket "key": key 00000000000000025f000000000000000078 is no revision`},
		{"key", string(mainKey(2)), "\x0a\x05a", `restore keys: bucket "key": revision 2.0: malformed KeyValue`},
		{"meta", "finishedCompactRev", "x", `restore keys: bucket "meta": finishedCompactRev: bucket "key": key 78 is no revision`},
	} {
		f := newFixture(t, Options{})
		f.b.Begin()
		f.b.Put(backend.Bucket(c.bucket), []byte(c.key), []byte(c.value))
		f.b.End()
		if _, err := Open(f.b, Options{}); err == nil || err.Error() != c.want {
			t.Errorf("open = %v\nwant %s", err, c.want)
		}
	}
}

func TestTxnSeesItself(t *testing.T) {
	f := newFixture(t, Options{})
	f.put("a", "1")
	f.unit(func(tx *Txn) {
		if n := tx.DeleteRange([]byte("x"), nil); n != 0 || tx.Rev() != 2 {
			t.Errorf("deleted %d, revision %d", n, tx.Rev())
		}
		if _, err := tx.Range(RangeOptions{Key: []byte("a"), Rev: 3}); !errors.Is(err, api.ErrFutureRev) {
			t.Errorf("range of the future: %v", err)
		}
		prev, rev := tx.Put([]byte("a"), []byte("2"), 5)
		if string(prev.Value()) != "1" || string(prev.Key()) != "a" || rev != 3 || tx.Rev() != 3 {
			t.Errorf("put over %+v at %d", prev, rev)
		}
		tx.Put([]byte("b"), []byte("3"), 0)
		r, err := tx.Range(RangeOptions{Key: []byte("a"), End: []byte{0}})
		if err != nil || r.Count != 2 || r.Rev != 3 || string(KV{Raw: r.KVs[0]}.Value()) != "2" {
			t.Errorf("range in the transaction: %+v %v", r, err)
		}
		if kv, ok := tx.Get([]byte("a")); !ok || kv.Version != 2 || kv.Create != 2 || kv.Mod != 3 || kv.Lease != 5 {
			t.Errorf("get in the transaction: %+v", kv)
		}
		if n := tx.DeleteRange([]byte("b"), []byte("c")); n != 1 || len(tx.Deleted) != 1 || string(tx.Deleted[0].Key) != "b" {
			t.Errorf("deleted %d: %+v", n, tx.Deleted)
		}
		if _, ok := tx.Get([]byte("b")); ok {
			t.Error("b is still there")
		}
		// Nobody else sees any of it.
		if kv, ok := f.s.Get([]byte("a")); !ok || string(kv.Value()) != "1" {
			t.Errorf("a reader sees %q", kv.Value())
		}
		if r, _ := f.s.Range(RangeOptions{Key: []byte("a"), End: []byte{0}}); r.Count != 1 || r.Rev != 2 {
			t.Errorf("a reader sees %+v", r)
		}
	})
	if kv, ok := f.s.Get([]byte("a")); !ok || string(kv.Value()) != "2" {
		t.Errorf("after End: %q", kv.Value())
	}
}

// TestBudget: memory for values stays in its bound, and values that are used stay.
func TestBudget(t *testing.T) {
	f := newFixture(t, Options{ValueBudgetBytes: 20_000})
	value := make([]byte, 100)
	key := func(i int) []byte { return fmt.Appendf(nil, "k%04d", i) }
	for i := range 1000 {
		f.unit(func(t *Txn) { t.Put(key(i), value, 0) })
		f.s.Get(key(0))
		if f.s.room.taken > 20_000 {
			t.Fatalf("%d bytes taken after %d puts", f.s.room.taken, i+1)
		}
	}
	inMemory := 0
	for i := range 1000 {
		e := f.s.table.get(f.s.table.tag(key(i)), key(i))
		if e.head.Load().raw != nil {
			inMemory++
		} else if i == 0 {
			t.Error("the value that was always used is gone from memory")
		}
		if kv, ok := f.s.Get(key(i)); !ok || len(kv.Value()) != 100 {
			t.Errorf("key %d: %v", i, kv)
		}
	}
	if inMemory < 100 || inMemory > 200 {
		t.Errorf("%d values in memory", inMemory)
	}
	f.reopen()
	if f.s.room.taken > 20_000 || f.s.room.taken < 10_000 {
		t.Errorf("%d bytes taken after a restart", f.s.room.taken)
	}
}

func TestEventsStopWhereTold(t *testing.T) {
	f := newFixture(t, Options{})
	for i := range 10 {
		f.put(fmt.Sprint("k", i), "v") // 2 to 11
	}
	var seen []int64
	take := func(events []Event) error { seen = append(seen, events[0].Rev.Main); return nil }
	next, err := f.s.Events(3, 100, 4, take)
	if err != nil || next != 7 {
		t.Errorf("next %d, %v", next, err)
	}
	next, err = f.s.Events(next, 9, 0, take)
	if err != nil || next != 10 {
		t.Errorf("next %d, %v", next, err)
	}
	why := errors.New("enough")
	next, err = f.s.Events(10, 11, 0, func(e []Event) error { _ = take(e); return why })
	if !errors.Is(err, why) || next != 11 {
		t.Errorf("next %d, %v", next, err)
	}
	if diff := cmp.Diff([]int64{3, 4, 5, 6, 7, 8, 9, 10}, seen); diff != "" {
		t.Errorf("seen (-want +got):\n%s", diff)
	}
	f.compacted(5)
	if _, err := f.s.Events(4, 11, 0, take); !errors.Is(err, api.ErrCompacted) {
		t.Errorf("events below the compacted revision: %v", err)
	}
	if next, err := f.s.Events(5, 11, 0, take); err != nil || next != 12 {
		t.Errorf("events from the compacted revision on: %d %v", next, err)
	}
}

// TestRevisionOfOldRules: a member of 3.4 removed the tombstone at the compacted
// revision, the newest there was.
func TestRevisionOfOldRules(t *testing.T) {
	for _, key := range [][]byte{scheduledKey, finishedKey} {
		f := newFixture(t, Options{})
		f.put("a", "1")
		f.b.Begin()
		f.b.Put(metaBucket, key, mainKey(9))
		f.b.End()
		f.reopen()
		if rev, compacted := f.s.Revision(); rev != 9 || compacted != 9 {
			t.Errorf("%s 9: revision %d, compacted %d", key, rev, compacted)
		}
	}
}

// TestEventsOvertaken: a compaction passes the events while they are handed out.
func TestEventsOvertaken(t *testing.T) {
	f := newFixture(t, Options{})
	for range 4 { // more than one piece
		f.put("a", string(make([]byte, eventsBytes)))
	}
	next, err := f.s.Events(2, 5, 0, func(e []Event) error {
		if e[0].Rev.Main == 2 {
			f.compacted(5)
		}
		return nil
	})
	if !errors.Is(err, api.ErrCompacted) || next > 4 {
		t.Errorf("next %d, %v", next, err)
	}
}
