package backend

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tmpSuffix follows the file's name in that of an unfinished defragmentation;
// real etcd removes such files too.
const tmpSuffix = ".tmp."

// lockRetry is how often a lock that somebody holds is tried again.
const lockRetry = 20 * time.Millisecond

// openLocked opens, or creates, the file and takes the lock that bbolt takes
// (flock, exclusive unless read-only), before anybody looks at the content.
func openLocked(path string, readOnly bool, timeout time.Duration) (*os.File, error) {
	flag, how := os.O_RDWR|os.O_CREATE, syscall.LOCK_EX
	if readOnly {
		flag, how = os.O_RDONLY, syscall.LOCK_SH
	}
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(timeout); ; time.Sleep(lockRetry) {
		err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, syscall.EINTR):
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		case time.Now().After(deadline):
			return nil, errors.Join(&LockedError{File: path, Holder: holder(f)}, f.Close())
		}
	}
}

// LockedError says that another process has the file open.
type LockedError struct {
	File   string
	Holder string // "process 123 (etcd)", or "" where the system does not say
}

func (e *LockedError) Error() string {
	who := e.Holder
	if who == "" {
		who = "another process"
	}
	return fmt.Sprintf("open %s: %s holds its lock; stop that server first, or use another data directory", e.File, who)
}

// holder asks Linux who holds a lock on f.
func holder(f *os.File) string {
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(locks)) {
		// 1: FLOCK ADVISORY WRITE <pid> <major>:<minor>:<inode> 0 EOF
		field := strings.Fields(line)
		if len(field) < 6 || !strings.HasSuffix(field[5], ":"+strconv.FormatUint(stat.Ino, 10)) {
			continue
		}
		if name, err := os.ReadFile("/proc/" + field[4] + "/comm"); err == nil {
			return fmt.Sprintf("process %s (%s)", field[4], bytes.TrimSpace(name))
		}
		return "process " + field[4]
	}
	return ""
}

// removeLeftovers removes what defragmentations that did not finish left behind.
func removeLeftovers(path string) {
	left, _ := filepath.Glob(path + tmpSuffix + "*")
	for _, name := range left {
		_ = os.Remove(name) // it costs space and nothing else
	}
}

// syncDir makes the name of a file durable.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
