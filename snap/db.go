package snap

import (
	"errors"
	"fmt"
	"io"
	"os"

	"theseus/internal/vfs"
)

// DBPath returns the path of the .snap.db of a raft index, be it there or not.
func (d *Dir) DBPath(index uint64) string { return d.path(dbName(index)) }

// HasDB tells whether the .snap.db of a raft index is there.
func (d *Dir) HasDB(index uint64) (bool, error) {
	_, err := d.fs.Stat(d.DBPath(index))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// SaveDB copies r into the .snap.db of the index and returns the bytes read. If
// that file is there already, r is read to its end and dropped. An r that ends
// early without an error is not noticed: whoever streams it must fail then.
func (d *Dir) SaveDB(r io.Reader, index uint64) (n int64, err error) {
	have, err := d.HasDB(index)
	if err == nil && have {
		n, err = io.Copy(io.Discard, r)
	} else if err == nil {
		n, err = d.write(dbName(index), d.OnDBSync, func(f vfs.File) (int64, error) {
			return io.CopyBuffer(onlyWriter{f}, r, make([]byte, 256<<10))
		})
	}
	if err != nil {
		return n, fmt.Errorf("save database snapshot %s: %w", dbName(index), err)
	}
	return n, nil
}

// onlyWriter keeps io.Copy from looking for faster ways than the buffer.
type onlyWriter struct{ io.Writer }

// ReleaseDBs removes the .snap.db files of an index below the given one.
func (d *Dir) ReleaseDBs(below uint64) error {
	names, err := d.names()
	if err != nil {
		return err
	}
	var old []string
	for _, name := range names {
		if index, ok := parseDBName(name); ok && index < below {
			old = append(old, name)
		}
	}
	_, err = d.remove(old)
	return err
}
