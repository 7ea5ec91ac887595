package wal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/internal/vfs"
)

const dir = "/member/wal"

var voters = &raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newDisk returns a crash disk with the parent of the log on it.
func newDisk(t testing.TB, seed uint64) *vfs.Crash {
	t.Helper()
	fs := vfs.NewCrash(seed)
	check(t, fs.MkdirAll("/member", 0o700))
	check(t, fs.SyncDir("/"))
	return fs
}

// entries makes n entries of one term from an index on, with data that tells
// them apart and holds no zero bytes.
func entries(term, index uint64, n, size int) []raftpb.Entry {
	var ents []raftpb.Entry
	for i := range n {
		data := fmt.Appendf(nil, "term %d index %d ", term, index+uint64(i))
		for len(data) < size {
			data = append(data, 'a'+byte(len(data)%26))
		}
		ents = append(ents, raftpb.Entry{Term: term, Index: index + uint64(i), Data: data})
	}
	return ents
}

func state(term, vote, commit uint64) raftpb.HardState {
	return raftpb.HardState{Term: term, Vote: vote, Commit: commit}
}

// same is cmp.Equal but for Repaired, and quick.
func same(a, b *Contents) bool {
	return bytes.Equal(a.Metadata, b.Metadata) && a.State == b.State &&
		slices.EqualFunc(a.Snapshots, b.Snapshots, func(x, y Snapshot) bool {
			return x.Index == y.Index && x.Term == y.Term && reflect.DeepEqual(x.ConfState, y.ConfState)
		}) &&
		slices.EqualFunc(a.Entries, b.Entries, func(x, y raftpb.Entry) bool {
			return x.Index == y.Index && x.Term == y.Term && x.Type == y.Type && bytes.Equal(x.Data, y.Data)
		})
}

func wantContents(t testing.TB, got, want *Contents) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("contents differ (-want +got):\n%s", d)
	}
}

// TestFirstFrames is the start of a log as every real etcd writes it.
func TestFirstFrames(t *testing.T) {
	fs := newDisk(t, 1)
	w, err := Create(dir, Metadata(0xbddc12ac52437f8c, 0x87187c9031281972), Options{FS: fs})
	check(t, err)
	check(t, w.Save(state(1, 0, 0), nil))
	check(t, w.Close())
	name := filepath.Join(dir, "0000000000000000-0000000000000000.wal")
	b, err := vfs.ReadFile(fs, name)
	check(t, err)
	if len(b) != 64_000_000 {
		t.Errorf("the segment has %d bytes", len(b))
	}
	first, _ := hex.DecodeString("04000000000000840804100000000000")
	if !bytes.Equal(b[:16], first) {
		t.Errorf("first frame is % x, want % x", b[:16], first)
	}
	// A snapshot record of index 0 and term 0, both explicit: 14 bytes at 56.
	if b[56] != 14 || b[63] != 0x82 || !bytes.Equal(b[64:67], []byte{0x08, 0x05, 0x10}) ||
		!bytes.Equal(b[72:78], []byte{0x1a, 0x04, 0x08, 0x00, 0x10, 0x00}) {
		t.Errorf("third frame is % x", b[56:80])
	}
	node, cluster, err := ParseMetadata(b[len(first)+8+10 : 16+8+32])
	if err != nil || node != 0xbddc12ac52437f8c || cluster != 0x87187c9031281972 {
		t.Errorf("metadata is %x %x, %v", node, cluster, err)
	}
}

// TestEncoding checks the hand-written encoder against raft's own.
func TestEncoding(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	number := func() uint64 { return rng.Uint64() >> rng.IntN(64) }
	var e encoder
	var crc uint32
	shorter := 0 // checksums that take less than five bytes
	for range 2000 {
		en := raftpb.Entry{Type: raftpb.EntryType(rng.IntN(3)), Term: number(), Index: number()}
		if n := rng.IntN(300); n > 0 {
			en.Data = make([]byte, n-1)
			for i := range en.Data {
				en.Data[i] = byte(rng.Uint32())
			}
		}
		want, err := en.Marshal()
		check(t, err)
		e.reset()
		e.entry(&en)
		crc = update(crc, want)
		if crc < 1<<28 {
			shorter++
		}
		wantFrame(t, e.buf, typeEntry, crc, want)

		st := state(number(), number(), number())
		want, err = st.Marshal()
		check(t, err)
		e.reset()
		e.state(st)
		crc = update(crc, want)
		wantFrame(t, e.buf, typeState, crc, want)
	}
	if shorter == 0 || e.crc != crc {
		t.Fatalf("%d short checksums, running checksum %08x, want %08x", shorter, e.crc, crc)
	}
}

func wantFrame(t *testing.T, b []byte, typ int64, crc uint32, data []byte) {
	t.Helper()
	r := &reader{f: &memFile{b: b}, size: int64(len(b)), buf: make([]byte, 4096)}
	var before uint32 // not known here: the record is parsed only
	rec, _, _, err := r.next(before)
	check(t, err)
	if rec.typ != typ || rec.crc != crc || !bytes.Equal(rec.data, data) || len(b)%8 != 0 {
		t.Fatalf("frame % x: type %d, checksum %08x, data % x; want %d, %08x, % x", b, rec.typ, rec.crc, rec.data, typ, crc, data)
	}
}

// memFile is as much of a file as a reader needs.
type memFile struct {
	vfs.File
	b []byte
}

func (m *memFile) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func TestRoundTrip(t *testing.T) {
	fs := newDisk(t, 1)
	o := Options{FS: fs, SegmentBytes: 1000}
	meta := []byte("kept as it is \x00\xff")
	w, err := Create(dir, meta, o)
	check(t, err)
	if _, err := Create(dir, meta, o); !errors.Is(err, os.ErrExist) {
		t.Fatalf("created twice: %v", err)
	}
	want := &Contents{Metadata: meta, Snapshots: []Snapshot{{}}}
	for i := uint64(1); i < 60; i++ {
		ents := entries(1+i/20, i, 1, int(i*7))
		if i == 30 {
			ents = append(ents, raftpb.Entry{Term: 2, Index: 31, Type: raftpb.EntryConfChange, Data: []byte("x")}, raftpb.Entry{Term: 2, Index: 32})
			want.Entries = append(want.Entries, ents...)
			i = 32
		} else {
			want.Entries = append(want.Entries, ents...)
		}
		want.State = state(1+i/20, 7, i-1)
		check(t, w.Save(want.State, ents))
		if i == 40 {
			s := Snapshot{Index: 39, Term: 2, ConfState: voters}
			check(t, w.SaveSnapshot(s))
			want.Snapshots = append(want.Snapshots, s)
		}
	}
	want.State.Commit = 59
	check(t, w.Save(want.State, nil))
	check(t, w.Save(raftpb.HardState{}, nil)) // writes nothing
	got, err := Read(dir, Snapshot{}, o)
	check(t, err)
	wantContents(t, got, want)
	check(t, w.Close())
	if err := w.Save(want.State, nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("saved after close: %v", err)
	}

	names, err := list(fs, dir)
	check(t, err)
	if len(names) < 5 {
		t.Fatalf("only segments %v", names)
	}
	valid, err := Snapshots(dir, o)
	check(t, err)
	if d := cmp.Diff(want.Snapshots, valid); d != "" {
		t.Fatal(d)
	}
	w, got, err = Open(dir, Snapshot{}, o)
	check(t, err)
	wantContents(t, got, want)
	check(t, w.Close())

	from := want.Snapshots[1]
	w, got, err = Open(dir, from, o)
	check(t, err)
	want.Entries = want.Entries[39:]
	if d := cmp.Diff(want.Entries, got.Entries); d != "" {
		t.Fatal(d)
	}
	// The log goes on from there.
	for i := uint64(60); i < 90; i++ {
		ents := entries(5, i, 1, 100)
		want.Entries = append(want.Entries, ents...)
		want.State = state(5, 7, i)
		check(t, w.Save(want.State, ents))
	}
	check(t, w.Close())
	got, err = Read(dir, from, o)
	check(t, err)
	if d := cmp.Diff(want.Entries, got.Entries); d != "" || got.State != want.State || got.Repaired != nil {
		t.Fatalf("after going on: %+v %s", got.State, d)
	}
}

// TestOverwrite: a leader of a later term replaces an uncommitted tail.
func TestOverwrite(t *testing.T) {
	fs := newDisk(t, 1)
	w, err := Create(dir, nil, Options{FS: fs, SegmentBytes: 1 << 16})
	check(t, err)
	check(t, w.Save(state(1, 1, 3), entries(1, 1, 10, 20)))
	check(t, w.Save(state(2, 2, 4), entries(2, 5, 2, 20)))
	check(t, w.Close())
	w, got, err := Open(dir, Snapshot{}, Options{FS: fs, SegmentBytes: 1 << 16})
	check(t, err)
	wantContents(t, got, &Contents{
		State: state(2, 2, 4), Snapshots: []Snapshot{{}},
		Entries: append(entries(1, 1, 4, 20), entries(2, 5, 2, 20)...),
	})
	check(t, w.Close())
}

// TestSnapshotsUpToCommit: a snapshot above the last commit index is none that a
// member may start from.
func TestSnapshotsUpToCommit(t *testing.T) {
	fs := newDisk(t, 1)
	w, err := Create(dir, nil, Options{FS: fs, SegmentBytes: 1 << 16})
	check(t, err)
	check(t, w.Save(state(1, 1, 5), entries(1, 1, 5, 20)))
	if err := w.SaveSnapshot(Snapshot{Index: 5, Term: 1}); !errors.Is(err, ErrNoConfState) {
		t.Fatalf("a snapshot record without a conf state: %v", err)
	}
	five, twenty := Snapshot{Index: 5, Term: 1, ConfState: voters}, Snapshot{Index: 20, Term: 1, ConfState: voters}
	check(t, w.SaveSnapshot(five))
	check(t, w.SaveSnapshot(twenty)) // received from a leader; the hard state did not follow
	check(t, w.Close())
	got, err := Snapshots(dir, Options{FS: fs, SegmentBytes: 1 << 16})
	check(t, err)
	if d := cmp.Diff([]Snapshot{{}, five}, got); d != "" {
		t.Fatal(d)
	}
	w, c, err := Open(dir, five, Options{FS: fs, SegmentBytes: 1 << 16})
	check(t, err)
	if len(c.Entries) != 0 {
		t.Fatalf("%d entries after the snapshot", len(c.Entries))
	}
	check(t, w.Save(state(1, 1, 20), nil))
	check(t, w.Save(state(1, 1, 21), entries(1, 21, 1, 20)))
	check(t, w.Close())
	c, err = Read(dir, twenty, Options{FS: fs, SegmentBytes: 1 << 16})
	check(t, err)
	if len(c.Entries) != 1 || c.Entries[0].Index != 21 {
		t.Fatalf("entries after the received snapshot: %v", c.Entries)
	}
}

func TestRefusedStart(t *testing.T) {
	fs := newDisk(t, 1)
	w, err := Create(dir, nil, Options{FS: fs, SegmentBytes: 1 << 16})
	check(t, err)
	check(t, w.Save(state(2, 1, 5), entries(2, 1, 5, 20)))
	check(t, w.SaveSnapshot(Snapshot{Index: 4, Term: 2, ConfState: voters}))
	for _, c := range []struct {
		dir   string
		from  Snapshot
		cause error
	}{
		{"/nowhere", Snapshot{}, ErrNoSegments},
		{"/member", Snapshot{}, ErrNoSegments},
		{dir, Snapshot{Index: 4, Term: 1}, ErrSnapshotMismatch},
		{dir, Snapshot{Index: 3, Term: 2}, ErrSnapshotNotFound},
	} {
		_, err := Read(c.dir, c.from, Options{FS: fs, SegmentBytes: 1 << 16})
		wantDamage(t, err, c.cause)
	}
	if _, _, err := Open(dir, Snapshot{}, Options{FS: fs, SegmentBytes: 1 << 16}); !errors.Is(err, vfs.ErrLocked) {
		t.Fatalf("a log in use was opened: %v", err)
	}
	check(t, w.Close())
	if w, _, err = Open(dir, Snapshot{}, Options{FS: fs, SegmentBytes: 1 << 16}); err != nil {
		t.Fatalf("after the refusal: %v", err)
	}
	check(t, w.Close())
}

func wantDamage(t *testing.T, err, cause error) *DamageError {
	t.Helper()
	var d *DamageError
	if !errors.As(err, &d) || !errors.Is(err, cause) {
		t.Fatalf("error is %v, want damage: %v", err, cause)
	}
	if d.File == "" || d.What == "" || d.Do == "" || strings.Contains(err.Error(), "\n") {
		t.Fatalf("damage does not say everything in one line: %q", err)
	}
	return d
}

func TestReleaseAndPurge(t *testing.T) {
	fs := newDisk(t, 1)
	o := Options{FS: fs, SegmentBytes: 400}
	w, err := Create(dir, nil, o)
	check(t, err)
	for i := uint64(1); i <= 50; i++ {
		check(t, w.Save(state(1, 1, i), entries(1, i, 1, 100)))
	}
	segs, err := list(fs, dir)
	check(t, err)
	if removed, err := w.Purge(1); err != nil || len(removed) != 0 {
		t.Fatalf("purged %v, %v, with every segment locked", removed, err)
	}
	// The segment with the snapshot in it stays, and so does the one before when
	// the snapshot is the last entry of that.
	at := slices.IndexFunc(segs, func(s segment) bool { return s.index > 30 }) - 1
	check(t, w.SaveSnapshot(Snapshot{Index: segs[at].index, Term: 1, ConfState: voters}))
	segs, err = list(fs, dir)
	check(t, err)
	check(t, w.ReleaseTo(segs[at].index))
	if removed, err := w.Purge(0); err != nil || len(removed) != 0 {
		t.Fatalf("purged %v, %v, without a limit", removed, err)
	}
	removed, err := w.Purge(len(segs) - 3)
	check(t, err)
	if len(removed) != 3 || removed[0] != segs[0].name {
		t.Fatalf("purged %v", removed)
	}
	_, err = w.Purge(1)
	check(t, err)
	left, err := list(fs, dir)
	check(t, err)
	if d := cmp.Diff(segs[at-1:], left, cmp.AllowUnexported(segment{})); d != "" {
		t.Fatal(d)
	}
	check(t, w.ReleaseTo(1000)) // never the tail
	check(t, w.Save(state(1, 1, 51), entries(1, 51, 1, 10)))
	check(t, w.Close())
	if err := w.ReleaseTo(1); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	_, err = Read(dir, Snapshot{}, o)
	wantDamage(t, err, ErrMissingSegment)
	if _, err := Read(dir, Snapshot{Index: segs[at].index, Term: 1}, o); err != nil {
		t.Fatal(err)
	}
}

func TestPrepare(t *testing.T) {
	fs := newDisk(t, 1)
	o := Options{FS: fs, SegmentBytes: 3 << 20}
	w, err := Create(dir, nil, o)
	check(t, err)
	for _, name := range []string{"0.tmp", "1.tmp"} { // of a server that was killed
		check(t, vfs.WriteFileAtomic(fs, filepath.Join(dir, name), bytes.Repeat([]byte{7}, 9<<20), 0o600))
	}
	for i := uint64(1); i <= 4; i++ {
		check(t, w.Prepare())
		if !w.Prepared() {
			t.Fatal("prepared, and not prepared")
		}
		check(t, w.Prepare())
		check(t, w.Save(state(1, 1, 0), entries(1, i, 1, 3<<20)))
		if w.Prepared() {
			t.Fatal("the prepared segment was not taken")
		}
		if w.filled != o.SegmentBytes {
			t.Fatalf("the segment taken is filled up to %d", w.filled)
		}
	}
	check(t, w.Prepare())
	check(t, w.Close())
	files, err := fs.ReadDir(dir)
	check(t, err)
	if len(files) != 5 {
		t.Fatalf("%d files are left, want 5 segments", len(files))
	}
	if err := w.Prepare(); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	c, err := Read(dir, Snapshot{}, o)
	check(t, err)
	if len(c.Entries) != 4 || c.Repaired != nil {
		t.Fatalf("%d entries, repair %+v", len(c.Entries), c.Repaired)
	}
}

// TestPrepareBesideSave is for the race detector.
func TestPrepareBesideSave(t *testing.T) {
	o := Options{SegmentBytes: 64 << 10}
	path := filepath.Join(t.TempDir(), "wal")
	w, err := Create(path, nil, o)
	check(t, err)
	done := make(chan error)
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := w.Prepare(); err != nil {
				done <- err
				return
			}
			w.Purge(3)
		}
	}()
	for i := uint64(1); i <= 300; i++ {
		check(t, w.Save(state(1, 1, i), entries(1, i, 1, 2000)))
		check(t, w.ReleaseTo(i))
	}
	close(stop)
	check(t, <-done)
	check(t, w.Close())
}

// TestFailureSticks: after a failed write or sync nothing is tried again.
func TestFailureSticks(t *testing.T) {
	full := errors.New("disk is broken")
	for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpSync} {
		var failing bool
		fs := vfs.NewFault(newDisk(t, 1), func(o vfs.Op, path string) error {
			if failing && o == op {
				return full
			}
			return nil
		})
		w, err := Create(dir, nil, Options{FS: fs, SegmentBytes: 1 << 16})
		check(t, err)
		failing = true
		if err := w.Save(state(1, 1, 0), entries(1, 1, 1, 10)); !errors.Is(err, full) {
			t.Fatalf("%s: %v", op, err)
		}
		failing = false
		for _, err := range []error{
			w.Save(state(1, 1, 0), entries(1, 1, 1, 10)), w.Save(state(2, 1, 0), nil), w.Sync(),
			w.SaveSnapshot(Snapshot{Index: 1, Term: 1, ConfState: voters}),
		} {
			if !errors.Is(err, full) {
				t.Fatalf("%s: a later call returns %v", op, err)
			}
		}
		check(t, w.Close())
	}
}

// TestCreateInPlace: a directory that is there already may be a mount point.
func TestCreateInPlace(t *testing.T) {
	path := t.TempDir()
	check(t, os.Mkdir(filepath.Join(path, "lost+found"), 0o700))
	w, err := Create(path, []byte("m"), Options{})
	check(t, err)
	check(t, w.Close())
	if !Exists(vfs.OS, path) || Exists(vfs.OS, path+"2") {
		t.Fatal("Exists is wrong")
	}
	w, _, err = Open(path, Snapshot{}, Options{})
	check(t, err)
	check(t, w.Close())
}

func TestHooks(t *testing.T) {
	var syncs, written int
	fs := newDisk(t, 1)
	w, err := Create(dir, nil, Options{FS: fs, SegmentBytes: 1 << 16, OnSync: func(time.Duration) { syncs++ }, OnWrite: func(n int, _ time.Duration) { written += n }})
	check(t, err)
	for _, c := range []struct {
		st   raftpb.HardState
		ents []raftpb.Entry
		must int // syncs
	}{
		{state(1, 0, 0), nil, 1},                      // new term
		{state(1, 2, 0), nil, 1},                      // new vote
		{raftpb.HardState{}, entries(1, 1, 3, 10), 1}, // entries
		{state(1, 2, 3), nil, 0},                      // commit
		{raftpb.HardState{}, nil, 0},
	} {
		before, bytes := syncs, written
		check(t, w.Save(c.st, c.ents))
		if syncs-before != c.must {
			t.Errorf("%v with %d entries was synced %d times", c.st, len(c.ents), syncs-before)
		}
		if (written > bytes) != (c.st != raftpb.HardState{} || len(c.ents) > 0) {
			t.Errorf("%v with %d entries wrote %d bytes", c.st, len(c.ents), written-bytes)
		}
	}
	check(t, w.Close())
}

func TestSaveDoesNotAllocate(t *testing.T) {
	w, err := Create(filepath.Join(t.TempDir(), "wal"), nil, Options{UnsafeNoSync: true})
	check(t, err)
	defer w.Close()
	ents := entries(1, 1, 64, 300)
	st := state(1, 1, 0)
	if n := testing.AllocsPerRun(100, func() { st.Commit++; check(t, w.Save(st, ents)) }); n > 0 {
		t.Fatalf("%v allocations a batch of %d entries", n, len(ents))
	}
}

// TestDecodeRefuses holds what decodes as a message of the type, and is none.
func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct {
		typ  int64
		data string
		why  string
	}{
		{typeState, "1002180f", "an empty entry of etcd 3.7"},
		{typeState, "0800100218052201ff", "an entry"},
		{typeState, "080210021803180f", "a field that comes twice"},
		{typeState, "0802", ""},
		{typeState, "08", "cut short"},
		{typeState, "", "empty"},
		{typeState, "0a0101", "a field that is no number"},
		{typeState, "2001", "a field that is none of its own"},
		{typeEntry, "080210d28fd1a8e0c9a5d3bb01180f", "a hard state of term 2"},
		{typeEntry, "080010021805", ""},
		{typeEntry, "10021805", ""},
		{typeEntry, "1002180522", "cut short"},
		{typeEntry, "100218052205ff", "data cut short"},
		{typeEntry, "1002", "no index"},
		{typeEntry, "1805", "no term"},
		{typeEntry, "080310021805", "an entry type that does not exist"},
		{typeEntry, "100218051805", "a field that comes twice"},
		{typeEntry, "100218053001", "a field that is none of its own"},
		{typeSnapshot, "08001000", ""},
		{typeSnapshot, "", "empty"},
		{typeSnapshot, "080510021803", "a hard state"},
		{typeSnapshot, "080510021a0308ff", "conf state cut short"},
		{typeSnapshot, "080510021a020aff", "no conf state"},
		{typeSnapshot, "08050805", "a field that comes twice"},
	} {
		data, err := hex.DecodeString(c.data)
		check(t, err)
		switch c.typ {
		case typeState:
			_, err = decodeState(data)
		case typeEntry:
			err = decodeEntry(data, &raftpb.Entry{})
		case typeSnapshot:
			_, err = decodeSnapshot(data)
		}
		if (err == nil) != (c.why == "") {
			t.Errorf("type %d, %s (%s): %v", c.typ, c.data, c.why, err)
		}
	}
}

func BenchmarkSave(b *testing.B) {
	for _, n := range []int{1, 16, 64, 256} {
		for _, sync := range []bool{true, false} {
			b.Run(fmt.Sprintf("entries=%d/sync=%v", n, sync), func(b *testing.B) {
				w, err := Create(filepath.Join(b.TempDir(), "wal"), nil, Options{UnsafeNoSync: !sync})
				check(b, err)
				defer w.Close()
				ents := entries(3, 1, n, 300)
				b.SetBytes(int64(n * 300))
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					check(b, w.Save(state(3, 1, uint64(i)), ents))
				}
			})
		}
	}
}

func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "wal")
	w, err := Create(path, nil, Options{UnsafeNoSync: true})
	check(b, err)
	for i := uint64(0); i < 100_000; i += 100 {
		check(b, w.Save(state(3, 1, i), entries(3, i+1, 100, 300)))
	}
	check(b, w.Close())
	b.Run("Read", func(b *testing.B) {
		b.SetBytes(100_000 * 300)
		for b.Loop() {
			_, err := Read(path, Snapshot{}, Options{})
			check(b, err)
		}
	})
	b.Run("Snapshots", func(b *testing.B) {
		b.SetBytes(100_000 * 300)
		for b.Loop() {
			_, err := Snapshots(path, Options{})
			check(b, err)
		}
	})
}
