package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/internal/vfs"
)

func readFile(t testing.TB, fs vfs.FS, name string) []byte {
	t.Helper()
	b, err := vfs.ReadFile(fs, name)
	check(t, err)
	return b
}

// segmentName is the path of the last segment.
func segmentName(t testing.TB, fs vfs.FS) string {
	t.Helper()
	segs, err := list(fs, dir)
	check(t, err)
	return filepath.Join(dir, segs[len(segs)-1].name)
}

// overwrite changes bytes of a file, durably.
func overwrite(t testing.TB, fs vfs.FS, name string, off int64, b []byte) {
	t.Helper()
	f, err := fs.OpenFile(name, os.O_RDWR, 0)
	check(t, err)
	_, err = f.WriteAt(b, off)
	check(t, err)
	check(t, f.Sync())
	check(t, f.Close())
}

// replace gives a file another content.
func replace(t testing.TB, fs vfs.FS, name string, b []byte) {
	t.Helper()
	check(t, vfs.WriteFileAtomic(fs, name, b, 0o600))
}

// image is every file of the log's directory.
func image(t testing.TB, fs vfs.FS) map[string]string {
	t.Helper()
	entries, err := fs.ReadDir(dir)
	check(t, err)
	m := map[string]string{}
	for _, e := range entries {
		m[e.Name()] = string(readFile(t, fs, filepath.Join(dir, e.Name())))
	}
	return m
}

// frames lists the offsets of the records of a segment, and where they end.
func frames(t testing.TB, b []byte) (offs []int) {
	t.Helper()
	off := 0
	for off+8 <= len(b) && binary.LittleEndian.Uint64(b[off:]) != 0 {
		n, ok := parseLength(binary.LittleEndian.Uint64(b[off:]))
		if !ok {
			t.Fatalf("no frame at byte %d", off)
		}
		offs = append(offs, off)
		off += frameBytes(n)
	}
	return append(offs, off)
}

// smallLog makes a log of two segments in the way of a member.
func smallLog(t testing.TB) (*vfs.Crash, *Contents) {
	t.Helper()
	fs := newDisk(t, 1)
	o := Options{FS: fs, SegmentBytes: 1500}
	w, err := Create(dir, Metadata(0xbddc12ac52437f8c, 0x87187c9031281972), o)
	check(t, err)
	cc := raftpb.Entry{Term: 1, Index: 1, Type: raftpb.EntryConfChange, Data: []byte("add member")}
	check(t, w.Save(state(1, 0xbddc12ac52437f8c, 1), []raftpb.Entry{cc}))
	check(t, w.Save(state(2, 0xbddc12ac52437f8c, 1), []raftpb.Entry{{Term: 2, Index: 2}}))
	for i := uint64(3); i < 14; i++ {
		check(t, w.Save(state(2, 0xbddc12ac52437f8c, i-1), entries(2, i, 1, 40+int(i)*7)))
		if i == 6 {
			check(t, w.SaveSnapshot(Snapshot{Index: 5, Term: 2, ConfState: voters}))
		}
	}
	check(t, w.Close())
	c, err := Read(dir, Snapshot{}, o)
	check(t, err)
	if segs, err := list(fs, dir); err != nil || len(segs) != 2 {
		t.Fatalf("segments %v, %v", segs, err)
	}
	return fs, c
}

// TestFlipEveryByte changes every byte of a small log in each of its bits. Each is
// refused, with nothing changed on disk, or changes nothing that the log says.
func TestFlipEveryByte(t *testing.T) {
	fs, want := smallLog(t)
	clean := image(t, fs)
	segs, err := list(fs, dir)
	check(t, err)
	refused, harmless := 0, 0
	for _, seg := range segs {
		b := []byte(clean[seg.name])
		padded := paddingOf(t, b)
		for off := range b {
			for _, mask := range []byte{1, 2, 4, 8, 16, 32, 64, 128} {
				fs := diskOf(t, clean)
				overwrite(t, fs, filepath.Join(dir, seg.name), int64(off), []byte{b[off] ^ mask})
				what := fmt.Sprintf("%s byte %d changed by %02x", seg.name, off, mask)
				if tryOpen(t, fs, what, want) {
					harmless++
					if off < len(padded) && !padded[off] {
						t.Fatalf("%s: not refused", what)
					}
				} else {
					refused++
				}
			}
		}
	}
	if refused < 5*harmless/4 || harmless == 0 {
		t.Fatalf("%d refused, %d harmless", refused, harmless)
	}
}

// diskOf is a disk with these files in the directory of the log.
func diskOf(t testing.TB, files map[string]string) *vfs.Crash {
	t.Helper()
	fs := vfs.NewCrash(1)
	check(t, fs.MkdirAll(dir, 0o700))
	for name, content := range files {
		f, err := fs.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY, 0o600)
		check(t, err)
		_, err = f.Write([]byte(content))
		check(t, err)
		check(t, f.Close())
	}
	return fs
}

// paddingOf tells for each byte up to the end of the records whether no reader
// looks at it.
func paddingOf(t *testing.T, b []byte) []bool {
	offs := frames(t, b)
	padded := make([]bool, offs[len(offs)-1])
	for i, off := range offs[:len(offs)-1] {
		n, _ := parseLength(binary.LittleEndian.Uint64(b[off:]))
		for at := off + lengthBytes + n; at < offs[i+1]; at++ {
			padded[at] = true
		}
	}
	return padded
}

// tryOpen opens the log. It returns true if that gives the contents wanted, and
// false if it is refused; everything else fails the test.
func tryOpen(t *testing.T, fs vfs.FS, what string, want *Contents) bool {
	t.Helper()
	before := image(t, fs)
	w, got, err := Open(dir, Snapshot{}, Options{FS: fs, SegmentBytes: 1500})
	if err != nil {
		if _, ok := err.(*DamageError); !ok {
			t.Fatalf("%s: refused without naming the damage: %v", what, err)
		}
		if !maps.Equal(before, image(t, fs)) {
			t.Fatalf("%s: refused, and changed on disk", what)
		}
		return false
	}
	if !same(got, want) {
		t.Fatalf("%s: accepted with other contents (-want +got):\n%s", what, cmp.Diff(want, got))
	}
	check(t, w.Close())
	return true
}

// TestCutEverywhere ends the last segment at every byte of its last record: the
// records before it are there, and the copy holds what was cut off.
func TestCutEverywhere(t *testing.T) {
	fs, want := smallLog(t)
	name := segmentName(t, fs)
	b := readFile(t, fs, name)
	offs := frames(t, b)
	last, endOff := offs[len(offs)-2], offs[len(offs)-1]
	// The last record is the hard state, so only the commit index goes back.
	short := *want
	short.State.Commit--
	for size := last; size <= endOff; size++ {
		replace(t, fs, name, b[:size])
		w, got, err := Open(dir, Snapshot{}, Options{FS: fs, SegmentBytes: 1500})
		if err != nil {
			t.Fatalf("cut at byte %d of the last record: %v", size-last, err)
		}
		expect := &short
		if size == endOff {
			expect = want
		}
		if r := got.Repaired; (r != nil) != (size > last && size < endOff) {
			t.Fatalf("cut at byte %d: repaired %+v", size-last, r)
		} else if r != nil && (r.Offset != int64(last) || !bytes.Equal(readFile(t, fs, r.Backup), b[:size])) {
			t.Fatalf("cut at byte %d: the copy is not the segment as it was", size-last)
		}
		got.Repaired = nil
		wantContents(t, got, expect)
		check(t, w.Close())
	}
}

// TestCutEntry is the same for a last record that is an entry over three sectors.
func TestCutEntry(t *testing.T) {
	fs := newDisk(t, 1)
	o := Options{FS: fs, SegmentBytes: 1 << 16}
	w, err := Create(dir, nil, o)
	check(t, err)
	check(t, w.Save(state(1, 1, 0), entries(1, 1, 2, 50)))
	check(t, w.Save(raftpb.HardState{}, entries(1, 3, 1, 1100)))
	check(t, w.Close())
	name := segmentName(t, fs)
	b := readFile(t, fs, name)
	offs := frames(t, b)
	last, endOff := offs[len(offs)-2], offs[len(offs)-1]
	for size := last + 1; size < endOff; size++ {
		for _, extended := range []bool{false, true} {
			cut := bytes.Clone(b[:size])
			if extended { // the file kept its size, and the rest was not written
				if size%sectorBytes != 0 {
					continue
				}
				cut = append(cut, make([]byte, len(b)-size)...)
			}
			replace(t, fs, name, cut)
			got, err := Read(dir, Snapshot{}, o)
			if err != nil {
				t.Fatalf("cut at byte %d, extended %v: %v", size-last, extended, err)
			}
			if len(got.Entries) != 2 || got.Repaired == nil || got.Repaired.Offset != int64(last) || got.Repaired.Backup != "" {
				t.Fatalf("cut at byte %d, extended %v: %d entries, %+v", size-last, extended, len(got.Entries), got.Repaired)
			}
		}
	}
}

// TestDamage is a table of what has happened to real logs, and of how it differs
// from a write cut short.
func TestDamage(t *testing.T) {
	at := func(i int) func(b []byte, offs []int) int { return func(_ []byte, offs []int) int { return offs[i] } }
	middle := at(10)
	for _, c := range []struct {
		name  string
		harm  func(b []byte, offs []int) []byte
		cause error // nil: repaired
	}{
		{"length field far beyond the file", func(b []byte, offs []int) []byte { b[middle(b, offs)+4] ^= 1; return b }, ErrLength},
		{"length field a little longer", func(b []byte, offs []int) []byte { b[middle(b, offs)] ^= 8; return b }, ErrLength},
		{"length field of the last record", func(b []byte, offs []int) []byte { b[at(len(offs)-2)(b, offs)+2] ^= 4; return b }, ErrLength},
		{"length field zero, record behind it", func(b []byte, offs []int) []byte { clear(b[offs[10] : offs[10]+8]); return b }, ErrLength},
		{"byte in an entry", func(b []byte, offs []int) []byte { b[offs[10]+60] ^= 1; return b }, ErrChecksum},
		{"unknown type", func(b []byte, offs []int) []byte { b[offs[10]+9] = 6; return b }, ErrUnknownRecord},
		{"first record", func(b []byte, offs []int) []byte { clear(b[:16]); return b }, ErrLength},
		{"file of zeroes", func(b []byte, offs []int) []byte { clear(b); return b }, ErrIncomplete},
		{"empty file", func(b []byte, offs []int) []byte { return nil }, ErrIncomplete},
		{"cut within the first records", func(b []byte, offs []int) []byte { return b[:offs[2]+5] }, ErrIncomplete},
		{"sector in the middle", func(b []byte, offs []int) []byte { clear(b[2048:2560]); return b }, ErrHole},
		{"last sector of the last batch", func(b []byte, offs []int) []byte {
			end := offs[len(offs)-1]
			clear(b[end&^511:])
			return b
		}, nil},
		{"all but the last sector of the last batch", func(b []byte, offs []int) []byte {
			end := offs[len(offs)-1]
			clear(b[(offs[len(offs)-2-8]+511)&^511 : end&^511])
			return b
		}, nil},
		{"garbage behind the end", func(b []byte, offs []int) []byte {
			end := offs[len(offs)-1]
			copy(b[(end+511)&^511:], "what is this?")
			return b
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := newDisk(t, 1)
			o := Options{FS: fs, SegmentBytes: 1 << 16}
			w, err := Create(dir, []byte("meta"), o)
			check(t, err)
			for i := uint64(1); i <= 20; i++ {
				check(t, w.Save(state(1, 1, i-1), entries(1, i, 1, 120)))
			}
			check(t, w.Save(state(1, 1, 20), entries(1, 21, 8, 250)))
			check(t, w.Close())
			name := segmentName(t, fs)
			b := readFile(t, fs, name)
			offs := frames(t, b)
			replace(t, fs, name, c.harm(bytes.Clone(b), offs))
			before := image(t, fs)
			w, got, err := Open(dir, Snapshot{}, o)
			if c.cause != nil {
				d := wantDamage(t, err, c.cause)
				t.Log(d)
				if !maps.Equal(before, image(t, fs)) {
					t.Fatal("refused, and changed on disk")
				}
				return
			}
			check(t, err)
			check(t, w.Close())
			if got.Repaired == nil || len(got.Entries) < 20 {
				t.Fatalf("%d entries, repair %+v", len(got.Entries), got.Repaired)
			}
			t.Log(got.Repaired)
		})
	}
}

// TestHole zeroes each sector of a log. All but those of the last batch were
// synced before something else was written, so a hole there is refused.
func TestHole(t *testing.T) {
	fs := newDisk(t, 1)
	o := Options{FS: fs, SegmentBytes: 1 << 16}
	w, err := Create(dir, []byte("meta"), o)
	check(t, err)
	var lastBatch int64
	for i := uint64(1); i <= 60; i += 3 {
		lastBatch = w.off
		check(t, w.Save(state(1, 1, i-1), entries(1, i, 3, 300)))
	}
	check(t, w.Close())
	name := segmentName(t, fs)
	b := readFile(t, fs, name)
	offs := frames(t, b)
	for sector := 0; sector < offs[len(offs)-1]; sector += 512 {
		bad := bytes.Clone(b)
		clear(bad[sector : sector+512])
		replace(t, fs, name, bad)
		got, err := Read(dir, Snapshot{}, o)
		if int64(sector+512) <= lastBatch {
			if err == nil {
				t.Fatalf("sector at %d, synced before %d, is gone, and %d entries are accepted", sector, lastBatch, len(got.Entries))
			}
			continue
		}
		if err != nil {
			t.Fatalf("sector at %d, of the batch at %d, is gone: %v", sector, lastBatch, err)
		}
		// The first sector of the batch holds the end of the one before it.
		if got.Repaired == nil || len(got.Entries) < 54 {
			t.Fatalf("sector at %d: %d entries, repair %+v", sector, len(got.Entries), got.Repaired)
		}
	}
}

// TestDamageAcrossSegments: segments that are missing, exchanged, shortened or
// of another member.
func TestDamageAcrossSegments(t *testing.T) {
	build := func(meta string) (vfs.FS, []string) {
		fs := newDisk(t, 1)
		w, err := Create(dir, []byte(meta), Options{FS: fs, SegmentBytes: 1500})
		check(t, err)
		for i := uint64(1); i <= 30; i++ {
			check(t, w.Save(state(1, 1, i-1), entries(1, i, 1, 200)))
		}
		check(t, w.Close())
		segs, err := list(fs, dir)
		check(t, err)
		if len(segs) < 4 {
			t.Fatalf("segments %v", segs)
		}
		var names []string
		for _, s := range segs {
			names = append(names, filepath.Join(dir, s.name))
		}
		return fs, names
	}
	other, otherNames := build("other")
	for _, c := range []struct {
		name  string
		harm  func(fs vfs.FS, names []string)
		cause error
	}{
		{"one in the middle is gone", func(fs vfs.FS, n []string) { check(t, fs.Remove(n[2])) }, ErrMissingSegment},
		{"the first is gone", func(fs vfs.FS, n []string) { check(t, fs.Remove(n[0])) }, ErrMissingSegment},
		{"exchanged", func(fs vfs.FS, n []string) {
			a, b := readFile(t, fs, n[1]), readFile(t, fs, n[2])
			replace(t, fs, n[1], b)
			replace(t, fs, n[2], a)
		}, ErrChecksum},
		{"of another member", func(fs vfs.FS, n []string) { replace(t, fs, n[2], readFile(t, other, otherNames[2])) }, ErrChecksum},
		{"cut between records", func(fs vfs.FS, n []string) {
			b := readFile(t, fs, n[1])
			offs := frames(t, b)
			replace(t, fs, n[1], b[:offs[len(offs)-2]])
		}, ErrChecksum},
		{"cut within a record", func(fs vfs.FS, n []string) {
			b := readFile(t, fs, n[1])
			replace(t, fs, n[1], b[:len(b)-20])
		}, ErrIncomplete},
		{"a sector gone that is not in the last segment", func(fs vfs.FS, n []string) {
			b := readFile(t, fs, n[1])
			clear(b[len(b)&^511-512 : len(b)&^511])
			replace(t, fs, n[1], b)
		}, ErrIncomplete},
		{"other metadata", func(fs vfs.FS, n []string) { writeSegment(t, fs, n[len(n)-1], []byte("other"), nil, 30) }, ErrMetadataConflict},
		{"a gap between entries", func(fs vfs.FS, n []string) {
			writeSegment(t, fs, n[len(n)-1], []byte("meta"), entries(1, 40, 1, 10), 30)
		}, ErrEntryGap},
		{"fewer entries than were committed", func(fs vfs.FS, n []string) {
			writeSegment(t, fs, n[len(n)-1], []byte("meta"), nil, 31)
		}, ErrCommitBeyondLog},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs, names := build("meta")
			c.harm(fs, names)
			before := image(t, fs)
			_, _, err := Open(dir, Snapshot{}, Options{FS: fs, SegmentBytes: 1500})
			t.Log(wantDamage(t, err, c.cause))
			if !maps.Equal(before, image(t, fs)) {
				t.Fatal("refused, and changed on disk")
			}
		})
	}
}

// writeSegment replaces the last segment by a well-formed one that holds these
// entries and this commit index.
func writeSegment(t *testing.T, fs vfs.FS, name string, meta []byte, ents []raftpb.Entry, commit uint64) {
	t.Helper()
	first := readFile(t, fs, name)
	rec, ok := parseRecord(first[8:12])
	if !ok {
		rec, ok = parseRecord(first[8 : 8+binary.LittleEndian.Uint64(first)&0xff])
	}
	if !ok || rec.typ != typeCRC {
		t.Fatalf("no crc record: % x", first[:24])
	}
	e := encoder{crc: rec.crc}
	e.checksum()
	e.metadata(meta)
	for i := range ents {
		e.entry(&ents[i])
	}
	e.state(state(1, 1, commit))
	replace(t, fs, name, append(e.buf, make([]byte, 512)...))
}
