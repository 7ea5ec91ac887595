package vfs

import (
	"fmt"
	"os"
)

// Op names an operation for the injector of NewFault.
type Op string

// The operations that a fault can be injected into.
const (
	OpOpen        Op = "open"
	OpRename      Op = "rename" // path is the new name
	OpRemove      Op = "remove"
	OpRemoveAll   Op = "removeall"
	OpMkdir       Op = "mkdir"
	OpReadDir     Op = "readdir"
	OpStat        Op = "stat"
	OpSyncDir     Op = "syncdir"
	OpLock        Op = "lock"
	OpRead        Op = "read"
	OpWrite       Op = "write"
	OpSync        Op = "sync" // Sync and Datasync
	OpTruncate    Op = "truncate"
	OpPreallocate Op = "preallocate"
)

// NewFault returns an FS that asks inject before every operation on fs. When
// inject returns an error, the operation is not carried out and fails with that
// error as an os.PathError. inject is called by whatever goroutine uses the FS.
func NewFault(fs FS, inject func(op Op, path string) error) FS {
	return &faultFS{fs: fs, inject: inject}
}

type faultFS struct {
	fs     FS
	inject func(op Op, path string) error
}

type faultFile struct {
	File
	fs *faultFS
}

func (x *faultFS) check(op Op, path string) error {
	if err := x.inject(op, path); err != nil {
		return &os.PathError{Op: string(op), Path: path, Err: err}
	}
	return nil
}

func (x *faultFS) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	if err := x.check(OpOpen, name); err != nil {
		return nil, err
	}
	f, err := x.fs.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{File: f, fs: x}, nil
}

func (x *faultFS) Rename(oldname, newname string) error {
	if err := x.check(OpRename, newname); err != nil {
		return err
	}
	return x.fs.Rename(oldname, newname)
}

func (x *faultFS) Remove(name string) error {
	if err := x.check(OpRemove, name); err != nil {
		return err
	}
	return x.fs.Remove(name)
}

func (x *faultFS) RemoveAll(name string) error {
	if err := x.check(OpRemoveAll, name); err != nil {
		return err
	}
	return x.fs.RemoveAll(name)
}

func (x *faultFS) MkdirAll(name string, perm os.FileMode) error {
	if err := x.check(OpMkdir, name); err != nil {
		return err
	}
	return x.fs.MkdirAll(name, perm)
}

func (x *faultFS) ReadDir(name string) ([]os.DirEntry, error) {
	if err := x.check(OpReadDir, name); err != nil {
		return nil, err
	}
	return x.fs.ReadDir(name)
}

func (x *faultFS) Stat(name string) (os.FileInfo, error) {
	if err := x.check(OpStat, name); err != nil {
		return nil, err
	}
	return x.fs.Stat(name)
}

func (x *faultFS) SyncDir(dir string) error {
	if err := x.check(OpSyncDir, dir); err != nil {
		return err
	}
	return x.fs.SyncDir(dir)
}

func (x *faultFS) Lock(f File) error {
	ff, ok := f.(*faultFile)
	if !ok {
		return fmt.Errorf("lock %s: not opened through this file system", f.Name())
	}
	if err := x.check(OpLock, f.Name()); err != nil {
		return err
	}
	return x.fs.Lock(ff.File)
}

func (f *faultFile) Read(p []byte) (int, error) {
	if err := f.fs.check(OpRead, f.Name()); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.check(OpRead, f.Name()); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultFile) Write(p []byte) (int, error) {
	if err := f.fs.check(OpWrite, f.Name()); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.check(OpWrite, f.Name()); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *faultFile) Sync() error {
	if err := f.fs.check(OpSync, f.Name()); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultFile) Datasync() error {
	if err := f.fs.check(OpSync, f.Name()); err != nil {
		return err
	}
	return f.File.Datasync()
}

func (f *faultFile) Truncate(size int64) error {
	if err := f.fs.check(OpTruncate, f.Name()); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultFile) Preallocate(size int64) error {
	if err := f.fs.check(OpPreallocate, f.Name()); err != nil {
		return err
	}
	return f.File.Preallocate(size)
}
