package vfs

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Datasync implements File.
func (f osFile) Datasync() error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if errors.Is(err, unix.EINTR) {
			continue // nothing was reported about the data yet
		}
		return os.NewSyscallError("fdatasync", err)
	}
}

// Preallocate implements File.
func (f osFile) Preallocate(size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	for tries := 0; errors.Is(err, unix.EINTR) && tries < 8; tries++ {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	// A large reservation can be interrupted for ever by a busy runtime's
	// signals; a file that is long enough but sparse is what real etcd makes then.
	if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) {
		return f.extend(size)
	}
	return os.NewSyscallError("fallocate", err)
}

// lockFile takes an open-file-description lock. It must be of that kind: a
// flock would not keep a real etcd out, nor would its locks keep us out.
func lockFile(f *os.File) error {
	lk := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return ErrLocked
	}
	return os.NewSyscallError("fcntl", err)
}
