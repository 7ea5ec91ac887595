package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"theseus/internal/vfs"
)

// repair cuts a torn tail off, after keeping a copy of the segment. A crash in
// between leaves the tail as it was, so the next Open does it again.
func repair(fs vfs.FS, tail vfs.File, r *Repair) error {
	backup := r.File + ".broken"
	if err := backUp(fs, tail, backup); err != nil {
		return fmt.Errorf("keep a copy of segment %s: %w", r.File, err)
	}
	r.Backup = backup
	if err := tail.Truncate(r.Offset); err != nil {
		return fmt.Errorf("repair segment %s: %w", r.File, err)
	}
	if err := tail.Sync(); err != nil {
		return fmt.Errorf("repair segment %s: %w", r.File, err)
	}
	return nil
}

// backUp copies a segment; its zeroes take no space in the copy.
func backUp(fs vfs.FS, from vfs.File, name string) error {
	to, err := fs.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	var size int64
	st, err := from.Stat()
	if err == nil {
		size, err = copySparse(to, from, make([]byte, min(st.Size()+1, int64(len(zeroes)))))
	}
	if err == nil {
		err = to.Truncate(size)
	}
	if err == nil {
		err = to.Sync()
	}
	if cerr := to.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fs.SyncDir(filepath.Dir(name))
	}
	return err
}

// copySparse copies through buf and returns the size of the file.
func copySparse(to io.WriterAt, from io.ReaderAt, buf []byte) (size int64, err error) {
	for {
		n, err := from.ReadAt(buf, size)
		if err != nil && !errors.Is(err, io.EOF) {
			return size, err
		}
		if !isZero(buf[:n]) {
			if _, err := to.WriteAt(buf[:n], size); err != nil {
				return size, err
			}
		}
		size += int64(n)
		if err != nil {
			return size, nil
		}
	}
}
