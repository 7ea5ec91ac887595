package mvcc

import (
	"testing"

	"theseus/api"
)

// hashCompacted compacts like the server does: the hash first.
func (f *fixture) hashCompacted(rev int64) {
	f.t.Helper()
	if err := f.compact(rev); err != nil {
		f.t.Fatal(err)
	}
	if err := f.s.HashCompaction(); err != nil {
		f.t.Fatal(err)
	}
	for f.compactStep(1) {
	}
}

// wantHash compares one answer of HashKV with what etcd 3.5.33, 3.6.14 and 3.7.1 gave.
func (f *fixture) wantHash(rev int64, sum uint32, compacted int64) {
	f.t.Helper()
	h, err := f.s.HashKV(rev)
	if err != nil || h.Hash != sum || h.CompactRevision != compacted {
		f.t.Errorf("HashKV(%d) = %+v, %v; etcd answers hash %d, compact_revision %d", rev, h, err, sum, compacted)
	}
}

// TestCompactionHashVectors: interop 5.8, and a longer history that was observed at the
// real binaries; one of its compactions finds nothing that it keeps.
func TestCompactionHashVectors(t *testing.T) {
	f := newFixture(t, Options{})
	f.put("a", "1")
	f.del("a")
	f.put("b", "1")
	f.hashCompacted(3)
	f.wantHash(3, 3520211144, -1)
	f.wantHash(0, 3584256279, 3)
	f.reopen()
	f.wantHash(3, 1084519789, 3)

	f = newFixture(t, Options{})
	f.put("a", "1")
	f.del("a")
	f.put("b", "1")
	f.put("b", "2")
	f.put("c", "3")
	f.hashCompacted(4)
	f.wantHash(4, 1918222291, -1)
	f.wantHash(0, 3121845116, 4)
	f.wantHash(5, 401905271, 4)
	f.hashCompacted(6)
	f.wantHash(4, 1918222291, -1)
	f.wantHash(6, 3121845116, 4)
	f.wantHash(0, 3121845116, 6)
	if _, err := f.s.HashKV(5); err != api.ErrCompacted {
		t.Errorf("HashKV(5): %v", err)
	}
	f.put("d", "4")
	f.put("b", "3")
	f.hashCompacted(8)
	f.del("d")
	f.del("b")
	f.del("c")
	f.hashCompacted(11)
	f.wantHash(6, 3121845116, 4)
	f.wantHash(8, 3910995682, 6)
	f.wantHash(11, 2537129484, 8)
	f.wantHash(0, 1084519789, 11)
	f.reopen()
	f.wantHash(11, 1084519789, 11)
	if _, err := f.s.HashKV(8); err != api.ErrCompacted {
		t.Errorf("HashKV(8) after a restart: %v", err)
	}
}

// TestNoHashOfATornCompaction: what a compaction has begun to remove cannot be hashed
// any more, neither later nor after a restart.
func TestNoHashOfATornCompaction(t *testing.T) {
	for _, again := range []bool{false, true} {
		f := newFixture(t, Options{})
		for range 20 {
			f.put("a", "1")
			f.put("b", "1")
		}
		if err := f.compact(30); err != nil {
			t.Fatal(err)
		}
		if !f.compactStep(1) {
			t.Fatal("the compaction was over at once")
		}
		if again {
			f.reopen()
		}
		if err := f.s.HashCompaction(); err != nil {
			t.Fatal(err)
		}
		for f.compactStep(1) {
		}
		if got := f.s.CompactHashes(); len(got) != 0 {
			t.Errorf("reopened %v: kept %+v", again, got)
		}
	}
}

// TestOldCompactionHashesGo: ten are kept.
func TestOldCompactionHashesGo(t *testing.T) {
	f := newFixture(t, Options{})
	for range 15 {
		f.put("a", "1")
	}
	for rev := int64(2); rev < 15; rev++ {
		f.hashCompacted(rev)
	}
	all := f.s.CompactHashes()
	if len(all) != keptHashes || all[0].HashRevision != 5 || all[9].HashRevision != 14 {
		t.Errorf("kept %+v", all)
	}
}
