package wal

import (
	"errors"
	"maps"
	"path/filepath"
	"testing"

	"theseus/internal/vfs"
)

// FuzzWALRead reads any bytes as a log of one segment. A log that is accepted
// opens with the same contents, and once opened needs no repair; one that is
// refused stays as it is.
func FuzzWALRead(f *testing.F) {
	fs, _ := smallLog(f)
	segs, err := list(fs, dir)
	check(f, err)
	for _, s := range segs {
		f.Add(readFile(f, fs, filepath.Join(dir, s.name)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		fs := vfs.NewCrash(1)
		check(t, fs.MkdirAll(dir, 0o700))
		replace(t, fs, filepath.Join(dir, newSegment(0, 0).name), b)
		o := Options{FS: fs, SegmentBytes: 4096}
		before := image(t, fs)
		seen, err := Read(dir, Snapshot{}, o)
		if !maps.Equal(before, image(t, fs)) {
			t.Fatal("Read changed the log")
		}
		w, got, oerr := Open(dir, Snapshot{}, o)
		if err != nil {
			var d *DamageError
			if !errors.As(err, &d) || oerr == nil || oerr.Error() != err.Error() {
				t.Fatalf("Read says %v, Open %v", err, oerr)
			}
			if !maps.Equal(before, image(t, fs)) {
				t.Fatal("refused, and changed on disk")
			}
			return
		}
		check(t, oerr)
		if !same(seen, got) || (seen.Repaired == nil) != (got.Repaired == nil) {
			t.Fatal("Read and Open disagree")
		}
		next := uint64(len(got.Entries)) + 1
		check(t, w.Save(got.State, entries(9, next, 1, 10)))
		check(t, w.Close())
		again, err := Read(dir, Snapshot{}, o)
		check(t, err)
		if again.Repaired != nil || len(again.Entries) != len(got.Entries)+1 {
			t.Fatalf("after going on: %d entries of %d, repair %+v", len(again.Entries), next, again.Repaired)
		}
	})
}

// FuzzJudge looks for a panic in what decides about damage, and for a verdict
// that depends on more than it is given.
func FuzzJudge(f *testing.F) {
	fs, _ := smallLog(f)
	b := readFile(f, fs, segmentName(f, fs))
	f.Add(b[64:], int64(64), true)
	f.Add(b[:512], int64(512), false)
	f.Fuzz(func(t *testing.T, rest []byte, off int64, last bool) {
		if off < 0 || off%8 != 0 || len(rest) == 0 || len(rest) > 1<<16 {
			return
		}
		s := suspect{off: off, rest: rest, last: last}
		v := judge(s)
		if v.what == "" || v.cause == nil {
			t.Fatalf("verdict says nothing: %+v", v)
		}
		if v.torn && !last {
			t.Fatal("a write cut short in the middle of the log")
		}
		s.rest = append(rest[:len(rest):len(rest)], 0)[:len(rest)]
		if judge(s) != v {
			t.Fatal("two verdicts")
		}
	})
}

// FuzzWALDamage damages a good log: a run of bytes changed or zeroed, and the
// file cut. What is accepted is the start of what was written, never anything
// else.
func FuzzWALDamage(f *testing.F) {
	f.Add(uint16(300), uint16(8), byte(1), uint16(0), false)
	f.Add(uint16(512), uint16(512), byte(0), uint16(0), true)
	f.Add(uint16(900), uint16(1), byte(0), uint16(1000), false)
	clean, want := smallLog(f)
	content := image(f, clean)
	f.Fuzz(func(t *testing.T, off, n uint16, mask byte, cut uint16, first bool) {
		fs := vfs.NewCrash(1)
		check(t, fs.MkdirAll(dir, 0o700))
		for name, b := range content {
			if s, _ := parseName(name); (s.seq == 0) == first {
				b = string(spoil([]byte(b), int(off), int(n), mask, int(cut)))
			}
			replace(t, fs, filepath.Join(dir, name), []byte(b))
		}
		w, got, err := Open(dir, Snapshot{}, Options{FS: fs, SegmentBytes: 1500})
		if err != nil {
			return
		}
		check(t, w.Close())
		if len(got.Entries) > len(want.Entries) || got.State.Commit > want.State.Commit || len(got.Snapshots) > len(want.Snapshots) {
			t.Fatalf("%d entries, state %+v", len(got.Entries), got.State)
		}
		start := *want
		start.Entries, start.State = want.Entries[:len(got.Entries)], got.State
		start.Snapshots = want.Snapshots[:len(got.Snapshots)]
		if !same(&start, got) {
			t.Fatal("accepted with other contents")
		}
	})
}

// spoil changes n bytes from off on, by a mask or, without one, to zero, and cuts
// b at a length that is not zero.
func spoil(b []byte, off, n int, mask byte, cut int) []byte {
	for i := off; i < min(off+n, len(b)); i++ {
		if b[i] ^= mask; mask == 0 {
			b[i] = 0
		}
	}
	if cut > 0 && cut < len(b) {
		b = b[:cut]
	}
	return b
}
