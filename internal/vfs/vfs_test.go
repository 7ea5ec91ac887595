package vfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// both runs a test on the operating system and on the crash disk: as long as the
// power is there, they behave the same.
func both(t *testing.T, body func(t *testing.T, fs FS, dir string)) {
	t.Run("os", func(t *testing.T) { body(t, OS, t.TempDir()) })
	t.Run("crash", func(t *testing.T) {
		fs := NewCrash(1)
		if err := fs.MkdirAll("/data", 0o700); err != nil {
			t.Fatal(err)
		}
		body(t, fs, "/data")
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, fs FS, name string, flag int) File {
	t.Helper()
	f, err := fs.OpenFile(name, flag, 0o600)
	check(t, err)
	return f
}

func wantContent(t *testing.T, fs FS, name, want string) {
	t.Helper()
	got, err := ReadFile(fs, name)
	check(t, err)
	if string(got) != want {
		t.Fatalf("%s holds %q, want %q", name, got, want)
	}
}

func TestFiles(t *testing.T) {
	both(t, func(t *testing.T, fs FS, dir string) {
		name := filepath.Join(dir, "f")
		if _, err := fs.OpenFile(name, os.O_RDWR, 0); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("open of a missing file: %v", err)
		}
		f := open(t, fs, name, os.O_CREATE|os.O_RDWR)
		if _, err := fs.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0); !errors.Is(err, os.ErrExist) {
			t.Fatalf("exclusive open of an existing file: %v", err)
		}
		f.Write([]byte("hello"))
		f.WriteAt([]byte("J"), 0)
		f.Write([]byte(" world"))
		wantContent(t, fs, name, "Jello world")
		check(t, f.Truncate(5))
		check(t, f.Preallocate(3)) // never shrinks
		wantContent(t, fs, name, "Jello")
		check(t, f.Preallocate(7))
		wantContent(t, fs, name, "Jello\x00\x00")
		pos, err := f.Seek(-4, io.SeekEnd)
		check(t, err)
		if pos != 3 {
			t.Fatalf("seek to %d", pos)
		}
		b := make([]byte, 8)
		if n, err := f.Read(b); n != 4 || err != nil {
			t.Fatalf("read %d, %v", n, err)
		}
		if n, err := f.ReadAt(b, 3); n != 4 || err != io.EOF {
			t.Fatalf("read at the end %d, %v", n, err)
		}
		st, err := f.Stat()
		check(t, err)
		if st.Size() != 7 || st.Name() != "f" {
			t.Fatalf("stat %s %d", st.Name(), st.Size())
		}
		check(t, f.Sync())
		check(t, f.Datasync())
		check(t, f.Close())
		if _, err := f.Write([]byte("x")); !errors.Is(err, os.ErrClosed) {
			t.Fatalf("write after close: %v", err)
		}
		r := open(t, fs, name, os.O_RDONLY)
		defer r.Close()
		if _, err := r.Write([]byte("x")); err == nil {
			t.Fatal("a file open for reading was written to")
		}
		open(t, fs, name, os.O_RDWR|os.O_TRUNC).Close()
		wantContent(t, fs, name, "")
	})
}

func TestNames(t *testing.T) {
	both(t, func(t *testing.T, fs FS, dir string) {
		check(t, fs.MkdirAll(filepath.Join(dir, "a/b"), 0o700))
		check(t, fs.MkdirAll(filepath.Join(dir, "a/b"), 0o700))
		for _, n := range []string{"a/z", "a/y"} {
			check(t, WriteFileAtomic(fs, filepath.Join(dir, n), []byte(n), 0o600))
		}
		check(t, fs.Rename(filepath.Join(dir, "a/z"), filepath.Join(dir, "a/y")))
		wantContent(t, fs, filepath.Join(dir, "a/y"), "a/z")
		entries, err := fs.ReadDir(filepath.Join(dir, "a"))
		check(t, err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if !slices.Equal(names, []string{"b", "y"}) || !entries[0].IsDir() || entries[1].IsDir() {
			t.Fatalf("names %q", names)
		}
		if err := fs.Remove(filepath.Join(dir, "a")); err == nil {
			t.Fatal("a directory that is not empty was removed")
		}
		if err := fs.Rename(filepath.Join(dir, "none"), filepath.Join(dir, "x")); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("rename of a missing file: %v", err)
		}
		check(t, fs.SyncDir(dir))
		check(t, fs.RemoveAll(filepath.Join(dir, "a")))
		check(t, fs.RemoveAll(filepath.Join(dir, "a")))
		if _, err := fs.Stat(filepath.Join(dir, "a/y")); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("stat of a removed file: %v", err)
		}
	})
}

func TestLock(t *testing.T) {
	both(t, func(t *testing.T, fs FS, dir string) {
		name := filepath.Join(dir, "f")
		a, b := open(t, fs, name, os.O_CREATE|os.O_RDWR), open(t, fs, name, os.O_RDWR)
		check(t, fs.Lock(a))
		check(t, fs.Lock(a))
		if err := fs.Lock(b); !errors.Is(err, ErrLocked) {
			t.Fatalf("lock taken twice: %v", err)
		}
		check(t, fs.Rename(name, name+"2")) // the lock moves along
		c := open(t, fs, name+"2", os.O_RDWR)
		if err := fs.Lock(c); !errors.Is(err, ErrLocked) {
			t.Fatalf("lock taken twice under a new name: %v", err)
		}
		check(t, a.Close())
		check(t, fs.Lock(b))
	})
}

func TestFault(t *testing.T) {
	broken := errors.New("broken")
	var failing Op
	var path string
	fs := NewFault(NewCrash(1), func(op Op, p string) error {
		if op == failing {
			path = p
			return broken
		}
		return nil
	})
	f := open(t, fs, "/f", os.O_CREATE|os.O_RDWR)
	check(t, fs.Lock(f))
	ops := map[Op]func() error{
		OpOpen:        func() error { _, err := fs.OpenFile("/f", os.O_RDONLY, 0); return err },
		OpRename:      func() error { return fs.Rename("/g", "/f") },
		OpRemove:      func() error { return fs.Remove("/f") },
		OpRemoveAll:   func() error { return fs.RemoveAll("/f") },
		OpMkdir:       func() error { return fs.MkdirAll("/f", 0o700) },
		OpReadDir:     func() error { _, err := fs.ReadDir("/f"); return err },
		OpStat:        func() error { _, err := fs.Stat("/f"); return err },
		OpSyncDir:     func() error { return fs.SyncDir("/f") },
		OpLock:        func() error { return fs.Lock(f) },
		OpRead:        func() error { _, err := f.ReadAt(make([]byte, 1), 0); return err },
		OpWrite:       func() error { _, err := f.WriteAt([]byte("x"), 0); return err },
		OpSync:        f.Sync,
		OpTruncate:    func() error { return f.Truncate(9) },
		OpPreallocate: func() error { return f.Preallocate(9) },
	}
	for op, do := range ops {
		failing, path = op, ""
		if err := do(); !errors.Is(err, broken) || path != "/f" {
			t.Errorf("%s: %v, path %q", op, err, path)
		}
	}
	failing = OpSync
	if err := f.Datasync(); !errors.Is(err, broken) {
		t.Errorf("datasync: %v", err)
	}
	failing = OpWrite
	if err := WriteFileAtomic(fs, "/h", []byte("x"), 0o600); !errors.Is(err, broken) {
		t.Errorf("atomic write: %v", err)
	}
	failing = ""
	wantContent(t, fs, "/f", "")
	if _, err := fs.Stat("/h.tmp"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed atomic write leaves its temporary file: %v", err)
	}
}

// TestUnsyncedIsLost uses a seed of which the luck keeps nothing.
func TestUnsyncedIsLost(t *testing.T) {
	lost, kept := 0, 0
	for seed := range uint64(50) {
		c := NewCrash(seed)
		check(t, c.MkdirAll("/d", 0o700))
		check(t, c.SyncDir("/"))
		f := open(t, c, "/d/named", os.O_CREATE|os.O_RDWR)
		f.Write([]byte("old"))
		check(t, f.Sync())
		check(t, c.SyncDir("/d"))
		f.WriteAt([]byte("new"), 0)
		g := open(t, c, "/d/unnamed", os.O_CREATE|os.O_RDWR)
		g.Write([]byte("synced, but not its name"))
		check(t, g.Sync())

		after := c.Crash()
		if _, err := c.Stat("/d"); !errors.Is(err, ErrCrashed) {
			t.Fatalf("a disk without power answers: %v", err)
		}
		got, err := ReadFile(after, "/d/named")
		check(t, err)
		switch string(got) {
		case "old":
			lost++
		case "new":
			kept++
		default:
			t.Fatalf("seed %d: a sector was torn: %q", seed, got)
		}
		if b, err := ReadFile(after, "/d/unnamed"); err == nil && string(b) != "synced, but not its name" {
			t.Fatalf("seed %d: synced content %q", seed, b)
		}
	}
	if lost == 0 || kept == 0 {
		t.Fatalf("%d times lost, %d times kept", lost, kept)
	}
}

// TestTornSectors checks that a large write can survive in part, sector by
// sector, and that the order of surviving changes is kept.
func TestTornSectors(t *testing.T) {
	torn := false
	for seed := range uint64(300) {
		c := NewCrash(seed)
		f := open(t, c, "/f", os.O_CREATE|os.O_RDWR)
		check(t, f.Preallocate(4*sectorBytes))
		check(t, f.Sync())
		check(t, c.SyncDir("/"))
		f.WriteAt(bytes.Repeat([]byte{1}, 2*sectorBytes), sectorBytes/2)
		f.WriteAt(bytes.Repeat([]byte{2}, sectorBytes), sectorBytes)
		got, err := ReadFile(c.Crash(), "/f")
		check(t, err)
		for i := 0; i < len(got); {
			end := i + sectorBytes/2 // everything above is a multiple of this
			for _, b := range got[i:end] {
				if b != got[i] {
					t.Fatalf("seed %d: byte %d: half a sector", seed, i)
				}
			}
			i = end
		}
		first, second := got[sectorBytes-1], got[sectorBytes]
		torn = torn || first != second && second == 1
		if got[0] != 0 || got[len(got)-1] != 0 {
			t.Fatalf("seed %d: bytes that nobody wrote", seed)
		}
	}
	if !torn {
		t.Fatal("no seed tears a write")
	}
}

// TestAtomicWrite crashes WriteFileAtomic at each of its operations.
func TestAtomicWrite(t *testing.T) {
	for seed := range uint64(20) {
		for n := 0; ; n++ {
			c := NewCrash(seed)
			check(t, WriteFileAtomic(c, "/f", []byte("old"), 0o600))
			c.FailAfter(n)
			err := WriteFileAtomic(c, "/f", []byte("new content"), 0o600)
			got, rerr := ReadFile(c.Crash(), "/f")
			check(t, rerr)
			if s := string(got); s != "new content" && (err == nil || s != "old") {
				t.Fatalf("seed %d, operation %d: found %q, write returned %v", seed, n, s, err)
			}
			if err == nil {
				if n < 4 {
					t.Fatalf("only %d operations", n)
				}
				break
			}
			if !errors.Is(err, ErrCrashed) {
				t.Fatal(err)
			}
		}
	}
}

// TestRenameIsAtomic: a file moved between directories is found under one of its
// names at least, whatever was synced.
func TestRenameIsAtomic(t *testing.T) {
	for seed := range uint64(50) {
		c := NewCrash(seed)
		check(t, c.MkdirAll("/a", 0o700))
		check(t, c.MkdirAll("/b", 0o700))
		check(t, WriteFileAtomic(c, "/a/f", []byte("x"), 0o600))
		check(t, c.SyncDir("/"))
		check(t, c.Rename("/a/f", "/b/f"))
		if seed%2 == 0 {
			check(t, c.SyncDir("/b"))
		}
		after := c.Crash()
		_, errA := after.Stat("/a/f")
		_, errB := after.Stat("/b/f")
		if (errA == nil) == (errB == nil) || seed%2 == 0 && errB != nil {
			t.Fatalf("seed %d: /a/f: %v, /b/f: %v", seed, errA, errB)
		}
	}
}
