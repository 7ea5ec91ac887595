package snap

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/internal/vfs"
)

const dir = "/member/snap"

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newDir(t testing.TB, fs vfs.FS) *Dir {
	t.Helper()
	check(t, fs.MkdirAll("/member", 0o700))
	check(t, fs.SyncDir("/"))
	d, err := Open(fs, dir)
	check(t, err)
	return d
}

func snapshot(term, index uint64) raftpb.Snapshot {
	return raftpb.Snapshot{
		Data: fmt.Appendf(nil, `{"Root":{"Path":"/"},"CurrentIndex":%d}`, index),
		Metadata: raftpb.SnapshotMetadata{
			Term: term, Index: index,
			ConfState: raftpb.ConfState{Voters: []uint64{0xbddc12ac52437f8c, 2}, Learners: []uint64{3}},
		},
	}
}

func names(t testing.TB, fs vfs.FS) []string {
	t.Helper()
	entries, err := fs.ReadDir(dir)
	check(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// TestGoldenFile: crc of data, then data; in it conf state with unpacked voters
// and an explicit auto_leave, as etcd 3.5 to 3.7 write it.
func TestGoldenFile(t *testing.T) {
	s := raftpb.Snapshot{Data: []byte("{}"), Metadata: raftpb.SnapshotMetadata{
		Term: 2, Index: 300, ConfState: raftpb.ConfState{Voters: []uint64{1, 2}, Learners: []uint64{3}},
	}}
	b, err := Marshal(s)
	check(t, err)
	want := "08dbe5f4a70d" + "1215" + // checksum, data
		"0a027b7d" + "120f" + // JSON, metadata
		"0a08" + "0801" + "0802" + "1003" + "2800" + // conf state
		"10ac02" + "1802"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("encoded %s, want %s", got, want)
	}
	got, err := Unmarshal(b)
	check(t, err)
	if d := cmp.Diff(&s, got); d != "" {
		t.Error(d)
	}
}

func TestSaveAndLoad(t *testing.T) {
	fs := vfs.NewCrash(1)
	d := newDir(t, fs)
	syncs := 0
	d.OnSync = func(time.Duration) { syncs++ }
	if _, err := d.LoadNewest(nil); !errors.Is(err, ErrNoSnapshot) {
		t.Fatalf("an empty folder: %v", err)
	}
	for _, s := range []raftpb.Snapshot{snapshot(1, 900), snapshot(2, 20), snapshot(2, 100), snapshot(3, 100), {}} {
		check(t, d.Save(s))
	}
	if syncs != 4 {
		t.Errorf("%d syncs", syncs)
	}
	ids, err := d.List()
	check(t, err)
	if want := []ID{{3, 100}, {2, 100}, {2, 20}, {1, 900}}; !slices.Equal(ids, want) {
		t.Fatalf("list is %v", ids)
	}
	if got := names(t, fs)[0]; got != "0000000000000001-0000000000000384.snap" {
		t.Fatalf("name is %s", got)
	}
	got, err := d.Load(ID{2, 20})
	check(t, err)
	want := snapshot(2, 20)
	if d := cmp.Diff(&want, got); d != "" {
		t.Fatal(d)
	}
	if _, err := d.Load(ID{2, 21}); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("an absent one: %v", err)
	}
	// The newest file is no answer when the log does not know of it.
	got, err = d.LoadNewest([]ID{{1, 900}, {2, 100}, {7, 7}})
	check(t, err)
	if got.Metadata.Term != 2 || got.Metadata.Index != 100 {
		t.Fatalf("newest is %+v", got.Metadata)
	}
	if _, err := d.LoadNewest([]ID{{7, 7}}); !errors.Is(err, ErrNoSnapshot) {
		t.Fatalf("none known to the log: %v", err)
	}
}

func TestDamagedFiles(t *testing.T) {
	good, err := Marshal(snapshot(2, 20))
	check(t, err)
	other, err := Marshal(snapshot(2, 21))
	check(t, err)
	flipped := bytes.Clone(good)
	flipped[20] ^= 1
	for _, c := range []struct {
		name string
		b    []byte
	}{
		{"empty", nil},
		{"cut short", good[:len(good)-1]},
		{"cut within the checksum", good[:3]},
		{"flipped", flipped},
		{"of another index", other},
		{"no data", []byte{0x08, 0x01}},
		{"no checksum", append([]byte{0x08, 0x00}, good[6:]...)},
		{"something else", []byte("{}")},
		{"more behind it", append(bytes.Clone(good), 'x')},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := vfs.NewCrash(1)
			d := newDir(t, fs)
			bad := ID{2, 20}
			check(t, vfs.WriteFileAtomic(fs, d.path(bad.name()), c.b, 0o600))
			_, err := d.LoadNewest([]ID{bad})
			var damage *DamageError
			if !errors.As(err, &damage) || !errors.Is(err, ErrNoSnapshot) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("with nothing else: %v", err)
			}
			t.Log(err)
			if got := names(t, fs); len(got) != 1 || got[0] != bad.name() {
				t.Fatalf("refused, and changed on disk: %v", got)
			}
			check(t, d.Save(snapshot(1, 10)))
			s, err := d.LoadNewest([]ID{bad, {1, 10}})
			check(t, err)
			if s.Metadata.Index != 10 {
				t.Fatalf("loaded %+v", s.Metadata)
			}
			if got := names(t, fs); !slices.Contains(got, bad.name()+".broken") || slices.Contains(got, bad.name()) {
				t.Fatalf("not set aside: %v", got)
			}
		})
	}
}

// TestFlipEveryByte: a changed byte is found, whichever it is.
func TestFlipEveryByte(t *testing.T) {
	s := snapshot(2, 20)
	good, err := Marshal(s)
	check(t, err)
	for i := range good {
		for bit := range 8 {
			b := bytes.Clone(good)
			b[i] ^= 1 << bit
			if got, err := Unmarshal(b); err == nil && !cmp.Equal(&s, got) {
				t.Fatalf("byte %d, bit %d: accepted as %+v", i, bit, got)
			}
		}
	}
}

func TestDatabases(t *testing.T) {
	fs := vfs.NewCrash(1)
	d := newDir(t, fs)
	syncs := 0
	d.OnDBSync = func(time.Duration) { syncs++ }
	image := bytes.Repeat([]byte("page"), 300_000)
	n, err := d.SaveDB(bytes.NewReader(image), 0xabc)
	check(t, err)
	if n != int64(len(image)) || syncs != 1 || d.DBPath(0xabc) != dir+"/0000000000000abc.snap.db" {
		t.Fatalf("%d bytes, %d syncs, path %s", n, syncs, d.DBPath(0xabc))
	}
	n, err = d.SaveDB(strings.NewReader("another"), 0xabc)
	check(t, err)
	got, err := vfs.ReadFile(fs, d.DBPath(0xabc))
	check(t, err)
	if n != 7 || !bytes.Equal(got, image) {
		t.Fatalf("the second one of an index has replaced the first")
	}
	broken := errors.New("connection reset")
	n, err = d.SaveDB(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)), 0xdef)
	if !errors.Is(err, broken) || n != 4 {
		t.Fatalf("a stream that breaks: %d, %v", n, err)
	}
	if have, err := d.HasDB(0xdef); have || err != nil {
		t.Fatalf("half of a database: %v, %v", have, err)
	}
	for _, index := range []uint64{1, 2, 3, 4} {
		_, err := d.SaveDB(strings.NewReader("x"), index)
		check(t, err)
	}
	check(t, d.ReleaseDBs(3))
	if got := len(names(t, fs)); got != 3 {
		t.Fatalf("left are %v", names(t, fs))
	}
}

func TestPurgeAndClean(t *testing.T) {
	fs := vfs.NewCrash(1)
	d := newDir(t, fs)
	for i := range uint64(7) {
		check(t, d.Save(snapshot(1+i/4, i+1)))
		_, err := d.SaveDB(strings.NewReader("x"), i)
		check(t, err)
	}
	keep := []string{"db", "0000000000000001-0000000000000001.snap.broken", "x.snap"}
	for _, name := range append(keep, "tmp123", "tmp0-x.snap", "db.tmp.77", "db.tmp") {
		check(t, vfs.WriteFileAtomic(fs, d.path(name), nil, 0o600))
	}
	removed, err := d.Purge(0)
	check(t, err)
	if len(removed) != 0 {
		t.Fatalf("purged %v without a limit", removed)
	}
	removed, err = d.Purge(5)
	check(t, err)
	want := []string{
		"0000000000000001-0000000000000001.snap", "0000000000000001-0000000000000002.snap",
		"0000000000000000.snap.db", "0000000000000001.snap.db",
	}
	if d := cmp.Diff(want, removed); d != "" {
		t.Fatal(d)
	}
	check(t, d.Clean())
	got := names(t, fs)
	if len(got) != 10+len(keep) || slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "tmp") }) {
		t.Fatalf("left are %v", got)
	}
}

// TestCrashEverywhere cuts the power in every operation of saving a snapshot and
// its database: under a final name stands a complete file, and what was
// acknowledged is there.
func TestCrashEverywhere(t *testing.T) {
	image := bytes.Repeat([]byte("page"), 1000)
	work := func(d *Dir) (done int, err error) {
		for i := uint64(1); i <= 2; i++ {
			if err := d.Save(snapshot(1, i)); err != nil {
				return done, err
			}
			done++
			if _, err := d.SaveDB(bytes.NewReader(image), i); err != nil {
				return done, err
			}
			done++
		}
		return done, nil
	}
	for n := 0; ; n++ {
		finished := false
		for seed := range uint64(40) {
			fs := vfs.NewCrash(seed)
			d := newDir(t, fs)
			fs.FailAfter(n)
			done, err := work(d)
			if err != nil && !errors.Is(err, vfs.ErrCrashed) {
				t.Fatal(err)
			}
			finished = err == nil
			after := fs.Crash()
			d, err = Open(after, dir)
			check(t, err)
			for i := uint64(1); i <= 2; i++ {
				want := snapshot(1, i)
				got, err := d.Load(ID{1, i})
				if err == nil && !cmp.Equal(&want, got) || err != nil && (done >= int(2*i-1) || !errors.Is(err, os.ErrNotExist)) {
					t.Fatalf("operation %d, seed %d, %d acknowledged: snapshot %d: %v", n, seed, done, i, err)
				}
				b, err := vfs.ReadFile(after, d.DBPath(i))
				if err == nil && !bytes.Equal(b, image) || err != nil && (done >= int(2*i) || !errors.Is(err, os.ErrNotExist)) {
					t.Fatalf("operation %d, seed %d, %d acknowledged: database %d: %v, %d bytes", n, seed, done, i, err, len(b))
				}
			}
			check(t, d.Clean())
		}
		if finished {
			if n < 15 {
				t.Fatalf("only %d operations", n)
			}
			return
		}
	}
}

// TestFailedSync: what could not be made durable has no name, and leaves nothing.
func TestFailedSync(t *testing.T) {
	broken := errors.New("disk is broken")
	for _, op := range []vfs.Op{vfs.OpSync, vfs.OpWrite, vfs.OpRename} {
		failing := false
		disk := vfs.NewCrash(1)
		d := newDir(t, vfs.NewFault(disk, func(o vfs.Op, _ string) error {
			if failing && o == op {
				return broken
			}
			return nil
		}))
		failing = true
		if err := d.Save(snapshot(1, 1)); !errors.Is(err, broken) {
			t.Errorf("%s: %v", op, err)
		}
		if _, err := d.SaveDB(strings.NewReader("x"), 1); !errors.Is(err, broken) {
			t.Errorf("%s: %v", op, err)
		}
		if got := names(t, disk); len(got) != 0 {
			t.Errorf("%s leaves %v", op, got)
		}
	}
}

func TestMessage(t *testing.T) {
	s := snapshot(2, 20)
	big := snapshot(2, 20)
	big.Data = bytes.Repeat([]byte("{}"), 100_000)
	var stream bytes.Buffer
	msgs := []raftpb.Message{
		{Type: raftpb.MsgSnap, From: 1, To: 2, Term: 2, Snapshot: &s},
		{Type: raftpb.MsgHeartbeat},
		{Type: raftpb.MsgSnap, From: 1, To: 2, Term: 2, Snapshot: &big},
	}
	for _, m := range msgs {
		check(t, WriteMessage(&stream, m))
	}
	whole := bytes.Clone(stream.Bytes())
	if !bytes.Equal(whole[:8], []byte{0, 0, 0, 0, 0, 0, 0, byte(msgs[0].Size())}) {
		t.Fatalf("starts with % x", whole[:8])
	}
	r := iotest.OneByteReader(&stream)
	for _, want := range msgs {
		got, err := ReadMessage(r, 1<<20)
		check(t, err)
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	}
	if _, err := ReadMessage(r, 1<<20); err != io.EOF {
		t.Fatalf("at the end: %v", err)
	}
	for _, cut := range []int{3, 8, 20, len(whole) - 1} {
		r := bytes.NewReader(whole[:cut])
		var err error
		for err == nil {
			_, err = ReadMessage(r, 1<<20)
		}
		if err != io.ErrUnexpectedEOF {
			t.Errorf("cut at byte %d: %v", cut, err)
		}
	}
	if _, err := ReadMessage(bytes.NewReader(whole), 10); !errors.Is(err, ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
	if _, err := ReadMessage(bytes.NewReader(bytes.Repeat([]byte{0xff}, 20)), 1<<63); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a size that is no size: %v", err)
	}
	if _, err := ReadMessage(bytes.NewReader([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0xff}), 100); err == nil {
		t.Error("no message was accepted")
	}
}

// TestAnnouncedSize: a sender that announces much and sends little costs little.
func TestAnnouncedSize(t *testing.T) {
	head := []byte{0, 0, 0, 0x7f, 0, 0, 0, 0}
	if n := testing.AllocsPerRun(1, func() {
		if _, err := ReadMessage(io.MultiReader(bytes.NewReader(head), strings.NewReader("x")), 1<<40); err != io.ErrUnexpectedEOF {
			t.Error(err)
		}
	}); n > 20 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzSnapRead(f *testing.F) {
	for _, s := range []raftpb.Snapshot{{}, snapshot(1, 1), snapshot(7, 1<<40)} {
		b, err := Marshal(s)
		check(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Unmarshal(b)
		if err != nil {
			return
		}
		b2, err := Marshal(*s)
		check(t, err)
		again, err := Unmarshal(b2)
		if err != nil || !cmp.Equal(s, again) {
			t.Fatalf("%+v became %+v, %v", s, again, err)
		}
	})
}

func FuzzSnapshotMessage(f *testing.F) {
	s := snapshot(1, 1)
	for _, m := range []raftpb.Message{{}, {Type: raftpb.MsgSnap, Snapshot: &s}, {Type: raftpb.MsgApp, Entries: []raftpb.Entry{{Term: 1, Index: 1, Data: []byte("x")}}}} {
		var b bytes.Buffer
		check(f, WriteMessage(&b, m))
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ReadMessage(bytes.NewReader(b), 1<<20)
		if err != nil {
			return
		}
		var out bytes.Buffer
		check(t, WriteMessage(&out, m))
		again, err := ReadMessage(&out, 1<<30)
		if err != nil || !cmp.Equal(m, again) {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
	})
}

// TestOnOS runs once on the file system of the operating system.
func TestOnOS(t *testing.T) {
	d, err := Open(vfs.OS, filepath.Join(t.TempDir(), "member", "snap"))
	if err == nil {
		check(t, d.Save(snapshot(1, 5)))
		_, err = d.SaveDB(strings.NewReader("image"), 5)
	}
	check(t, err)
	if _, err := d.LoadNewest([]ID{{1, 5}}); err != nil {
		t.Fatal(err)
	}
}
