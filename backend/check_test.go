package backend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// sampleFile makes a small file with branches, an overflow page and inline buckets.
func sampleFile(t testing.TB, freelist bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: !freelist, PageSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"key", "meta", "lease"} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		for i := range 300 {
			size := 20
			if i == 100 {
				size = 9000
			}
			if err := tx.Bucket([]byte("key")).Put(fmt.Appendf(nil, "%05d", i), make([]byte, size)); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte("meta")).Put([]byte("term"), []byte("1"))
	})
	if err == nil {
		err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("key")).Delete([]byte("00003")) })
	}
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// newest returns the offsets of the valid and of the other meta page, and the
// valid one's root and freelist.
func newest(b []byte) (at, other int, root, freelist uint64) {
	txid := func(at int) uint64 { return order.Uint64(b[at+64:]) }
	at, other = 0, 4096
	if txid(4096) > txid(0) {
		at, other = 4096, 0
	}
	return at, other, order.Uint64(b[at+32:]), order.Uint64(b[at+48:])
}

func TestDamageIsRefusedByName(t *testing.T) {
	// branchOf follows the root bucket to the root page of "key", a branch.
	branchOf := func(b []byte) int {
		_, _, root, _ := newest(b)
		page := b[root*4096:]
		element := page[16:]
		value := 16 + int(order.Uint32(element[4:])+order.Uint32(element[8:]))
		return int(order.Uint64(page[value:])) * 4096
	}
	for _, c := range []struct {
		name, want string
		freelist   bool
		damage     func(b []byte) []byte
	}{
		{"both meta pages", "both meta pages are invalid (magic number is 00000000)", false, func(b []byte) []byte {
			clear(b[16:80])
			clear(b[4096+16 : 4096+80])
			return b
		}},
		{"meta checksum", "both meta pages are invalid (checksum mismatch)", false, func(b []byte) []byte {
			b[16+40] ^= 1
			b[4096+16+40] ^= 1
			return b
		}},
		{"truncated", "the file ends here, but its meta page speaks of", false, func(b []byte) []byte { return b[:5*4096] }},
		{"tiny", "are too few for a database", false, func(b []byte) []byte { return b[:100] }},
		{"page number", "calls itself page", false, func(b []byte) []byte { b[branchOf(b)] ^= 0x40; return b }},
		{"page type", "has type 0x10", false, func(b []byte) []byte {
			binary.NativeEndian.PutUint16(b[branchOf(b)+8:], 0x10)
			return b
		}},
		{"count", "do not fit", false, func(b []byte) []byte {
			binary.NativeEndian.PutUint16(b[branchOf(b)+10:], 60000)
			return b
		}},
		{"overflow", "ends beyond the file's", false, func(b []byte) []byte {
			binary.NativeEndian.PutUint32(b[branchOf(b)+12:], 60000)
			return b
		}},
		{"child", "refers to page", false, func(b []byte) []byte {
			binary.NativeEndian.PutUint64(b[branchOf(b)+24:], 60000)
			return b
		}},
		{"cycle", "is used twice", false, func(b []byte) []byte {
			at := branchOf(b)
			copy(b[at+16+16+8:][:8], b[at+16+8:][:8]) // the second child is the first
			return b
		}},
		{"order", "out of order", false, func(b []byte) []byte {
			at := branchOf(b)
			b[at+16+int(order.Uint32(b[at+16:]))] = 0xff // the first key is the largest
			return b
		}},
		{"key length", "out of bounds", false, func(b []byte) []byte {
			binary.NativeEndian.PutUint32(b[branchOf(b)+16+4:], 1<<30)
			return b
		}},
		{"freelist", "the freelist names page", true, func(b []byte) []byte {
			_, _, root, freelist := newest(b)
			binary.NativeEndian.PutUint64(b[freelist*4096+16:], root)
			return b
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := sampleFile(t, c.freelist)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b = c.damage(b)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = Open(Options{Path: path})
			var damage *DamageError
			if !errors.As(err, &damage) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("open = %v, want %q", err, c.want)
			}
			after, err := os.ReadFile(path)
			if err != nil || string(after) != string(b) {
				t.Errorf("the refusal changed the file (%v)", err)
			}
		})
	}
}

func TestOneTornMetaPageIsFine(t *testing.T) {
	path := sampleFile(t, false)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at, _, _, _ := newest(b)
	for i := range 64 {
		b[at+16+i] = 0xaa
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	got := dump(t, open(t, Options{Path: path}), []Bucket{"key"})
	if len(got["key"]) != 300 { // as before the last transaction
		t.Errorf("%d keys", len(got["key"]))
	}
}

// TestLookingChangesNothing: whoever opens the file and then refuses to serve
// leaves no trace, with the free list stored or not.
func TestLookingChangesNothing(t *testing.T) {
	for _, freelist := range []bool{false, true} {
		path := sampleFile(t, freelist)
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b := open(t, Options{Path: path})
		if err := b.CreateBuckets("key", "meta"); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
			t.Errorf("free list stored %v: the file has changed (%v)", freelist, err)
		}
	}
}

// TestFreelistIsKept: a file closed properly says which pages are free, and one
// that is written again stays right.
func TestFreelistIsKept(t *testing.T) {
	path := sampleFile(t, false)
	for i := range 3 {
		b := open(t, Options{Path: path, NoSync: true})
		b.Begin()
		b.Put("key", fmt.Append(nil, i), make([]byte, 10_000))
		b.Delete("key", fmt.Appendf(nil, "%05d", 50+i))
		b.End()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, freelist := newest(data); freelist == noFreelist {
			t.Error("no free list after Close")
		}
		verify(t, path)
	}
}

func TestOpenForeignPageSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: 65536})
	if err == nil {
		err = db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("key")); return err })
	}
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	open(t, Options{Path: path})
}

// TestLockedFile has another process hold the file, which the message names.
func TestLockedFile(t *testing.T) {
	path := sampleFile(t, false)
	if os.Getenv("BACKEND_TEST_HOLD") != "" {
		b, err := Open(Options{Path: os.Getenv("BACKEND_TEST_HOLD")})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("held")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the parent closes the pipe
		_ = b.Close()
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLockedFile$")
	cmd.Env = append(os.Environ(), "BACKEND_TEST_HOLD="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 5)); n != 5 {
		t.Fatalf("the holder said nothing: %v", err)
	}
	_, err = Open(Options{Path: path, LockTimeout: time.Millisecond})
	var locked *LockedError
	if !errors.As(err, &locked) || !strings.Contains(err.Error(), fmt.Sprint("process ", cmd.Process.Pid)) {
		t.Errorf("open = %v, want the holder's process %d", err, cmd.Process.Pid)
	}
	_ = in.Close()
	_ = cmd.Wait()
	open(t, Options{Path: path})
}

func TestReadOnly(t *testing.T) {
	path := sampleFile(t, false)
	a := open(t, Options{Path: path, ReadOnly: true})
	b := open(t, Options{Path: path, ReadOnly: true}) // they share
	if string(a.Get("meta", []byte("term"))) != "1" || string(b.Get("meta", []byte("term"))) != "1" {
		t.Error("value is missing")
	}
	if _, err := Open(Options{Path: path, LockTimeout: time.Millisecond}); err == nil {
		t.Error("opened for writing beside a reader")
	}
	if _, err := Open(Options{Path: path + "x", ReadOnly: true}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open of nothing = %v", err)
	}
}

// FuzzCheckFile: what the checker accepts, bbolt reads without a panic.
func FuzzCheckFile(f *testing.F) {
	whole, err := os.ReadFile(sampleFile(f, false))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), uint64(0))
	f.Add(uint32(4096*3+8), uint64(1))
	f.Fuzz(func(t *testing.T, at uint32, value uint64) {
		path := filepath.Join(t.TempDir(), "db")
		b := append([]byte(nil), whole...)
		order.PutUint64(b[int(at)%(len(b)-8):], value)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		be, err := Open(Options{Path: path, NoSync: true, MapBytes: 1})
		if err != nil {
			return
		}
		for _, name := range []Bucket{"key", "meta", "lease"} {
			if err := be.Scan(name, nil, nil, func(k, v []byte) bool { return len(k)+len(v) >= 0 }); err != nil {
				t.Fatal(err)
			}
		}
		if err := be.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
