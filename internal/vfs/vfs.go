// Package vfs is the disk as a seam. A room that keeps files takes an FS, so
// that its tests can run on a disk that forgets what was not synced (NewCrash)
// or that fails where a test says so (NewFault); the product runs on OS.
//
// What a caller owes it: bytes are durable only after File.Sync or
// File.Datasync has returned nil, and names (created, renamed, removed) only
// after SyncDir of their directory has returned nil. A sync that failed must
// never be retried: the kernel may have dropped the pages, and the second call
// would then report a success that is none.
//
//	err := vfs.WriteFileAtomic(vfs.OS, "/data/member/x", data, 0o600)
package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// ErrLocked is what Lock returns, wrapped, when somebody else holds the lock.
var ErrLocked = errors.New("file is locked by another process")

// FS is a file system. Paths are those of package os. All methods may be called
// by any goroutine.
type FS interface {
	// OpenFile is os.OpenFile.
	OpenFile(name string, flag int, perm os.FileMode) (File, error)
	// Rename replaces newname atomically. It is durable after SyncDir of the
	// directories of both names.
	Rename(oldname, newname string) error
	Remove(name string) error
	RemoveAll(name string) error
	MkdirAll(name string, perm os.FileMode) error
	// ReadDir returns the entries sorted by name.
	ReadDir(name string) ([]os.DirEntry, error)
	Stat(name string) (os.FileInfo, error)
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
	// Lock tries to take an exclusive lock on the whole file and returns
	// ErrLocked, wrapped, when it is held through another open file, be it in
	// this process or in another. The lock goes with Close. On Linux it is an
	// open-file-description lock, as real etcd takes.
	Lock(f File) error
}

// File is an open file.
type File interface {
	io.Reader
	io.Writer
	io.ReaderAt
	io.WriterAt
	io.Seeker
	io.Closer
	Name() string
	// Sync makes content and metadata durable.
	Sync() error
	// Datasync makes the content durable, and of the metadata what is needed
	// to read it back (the size), but not the times.
	Datasync() error
	Truncate(size int64) error
	// Preallocate makes the file at least size bytes long and reserves the
	// space, so that later writes below size cannot run out of it. New bytes
	// read as zero; bytes already there keep their value.
	Preallocate(size int64) error
	Stat() (os.FileInfo, error)
}

// ReadFile reads the whole file.
func ReadFile(fs FS, name string) ([]byte, error) {
	f, err := fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// WriteFileAtomic replaces name by a file with this content: after a crash the
// name holds either the old content or the new one. The content is written to
// name + ".tmp" first, and everything is durable when it returns nil.
func WriteFileAtomic(fs FS, name string, data []byte, perm os.FileMode) error {
	tmp := name + ".tmp"
	if err := writeSynced(fs, tmp, data, perm); err != nil {
		fs.Remove(tmp) // a best effort: the next call truncates what is left
		return err
	}
	if err := fs.Rename(tmp, name); err != nil {
		fs.Remove(tmp)
		return err
	}
	if err := fs.SyncDir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("sync directory of %s: %w", name, err)
	}
	return nil
}

func writeSynced(fs FS, name string, data []byte, perm os.FileMode) error {
	f, err := fs.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
