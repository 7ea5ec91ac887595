package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"theseus/internal/vfs"
)

const suffix = ".wal"

// segment is one file of the log.
type segment struct {
	name  string
	seq   uint64 // 0, 1, 2, …
	index uint64 // one more than the last entry in earlier segments; 0 in the first
}

func newSegment(seq, index uint64) segment {
	return segment{name: fmt.Sprintf("%016x-%016x%s", seq, index, suffix), seq: seq, index: index}
}

// parseName is the inverse of newSegment.
func parseName(name string) (segment, bool) {
	base, ok := strings.CutSuffix(name, suffix)
	if !ok || len(base) != 33 || base[16] != '-' {
		return segment{}, false
	}
	seq, err1 := strconv.ParseUint(base[:16], 16, 64)
	index, err2 := strconv.ParseUint(base[17:], 16, 64)
	if err1 != nil || err2 != nil {
		return segment{}, false
	}
	return segment{name: name, seq: seq, index: index}, true
}

// list returns the segments of dir in order. Other files are not looked at.
func list(fs vfs.FS, dir string) ([]segment, error) {
	entries, err := fs.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list write-ahead log: %w", err)
	}
	var segs []segment
	for _, e := range entries {
		if s, ok := parseName(e.Name()); ok {
			segs = append(segs, s)
		}
	}
	slices.SortFunc(segs, func(a, b segment) int { return strings.Compare(a.name, b.name) })
	return segs, nil
}

// listFrom returns the segments that may hold entries above index: the last one
// whose name has at most that index, and all later ones.
func listFrom(fs vfs.FS, dir string, index uint64) ([]segment, error) {
	segs, err := list(fs, dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(segs) == 0 {
		return nil, damage(dir, -1, ErrNoSegments, "there is no write-ahead log")
	}
	if err != nil {
		return nil, err
	}
	for i := len(segs) - 1; i >= 0; i-- {
		if segs[i].index <= index {
			return segs[i:], consecutive(dir, segs[i:])
		}
	}
	return nil, damage(dir, -1, ErrMissingSegment,
		"the first segment is %s, so the entries after index %d are not there", segs[0].name, index)
}

// consecutive checks that no segment is missing.
func consecutive(dir string, segs []segment) error {
	for i := 1; i < len(segs); i++ {
		if want := segs[i-1].seq + 1; segs[i].seq != want {
			return damage(filepath.Join(dir, segs[i].name), -1, ErrMissingSegment,
				"segment %016x-*%s, which stands before this one, is missing", want, suffix)
		}
	}
	return nil
}

// Exists tells whether dir holds a log: a name that ends in .wal.
func Exists(fs vfs.FS, dir string) bool {
	entries, err := fs.ReadDir(dir)
	return err == nil && slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return strings.HasSuffix(e.Name(), suffix)
	})
}
