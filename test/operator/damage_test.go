package operator

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"theseus/test/cluster"
)

// stopped makes a directory with some history and returns it.
func stopped(t *testing.T) string {
	t.Helper()
	c := cluster.New(t, cluster.Options{})
	for i := range 300 {
		if _, err := c.Client().Put(context.Background(), fmt.Sprintf("k%03d", i), strings.Repeat("v", 100)); err != nil {
			t.Fatal(err)
		}
	}
	c.Members[0].Stop()
	return c.Members[0].Dir
}

func segment(t *testing.T, dir string) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
	if err != nil || len(all) == 0 {
		t.Fatal("no segment", err)
	}
	sort.Strings(all)
	return all[len(all)-1]
}

func edit(t *testing.T, file string, change func(b []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// used is the length of a segment without the zeroes it was made with.
func used(b []byte) int {
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return n
}

// TestDamageIsRefusedByName: whatever is wrong with a directory, the server names
// the file and what to do, and leaves every byte as it is.
func TestDamageIsRefusedByName(t *testing.T) {
	tests := []struct {
		name   string
		damage func(t *testing.T, dir string)
		says   []string
	}{
		{"a byte in the middle of the WAL", func(t *testing.T, dir string) {
			edit(t, segment(t, dir), func(b []byte) []byte { b[used(b)/2] ^= 0x10; return b })
		}, []string{".wal", "at byte"}},
		{"WAL missing", func(t *testing.T, dir string) { rm(t, filepath.Join(dir, "member", "wal")) }, []string{"wal"}},
		{"WAL shorter than the db", func(t *testing.T, dir string) {
			edit(t, segment(t, dir), func(b []byte) []byte { clear(b[used(b)/2:]); return b })
		}, []string{"member"}},
		{"db missing", func(t *testing.T, dir string) { rm(t, filepath.Join(dir, "member", "snap", "db")) }, []string{filepath.Join("snap", "db")}},
		{"db cut short", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "member", "snap", "db"), func(b []byte) []byte { return b[:20480] })
		}, []string{filepath.Join("snap", "db")}},
		{"both meta pages", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "member", "snap", "db"), func(b []byte) []byte { clear(b[16:80]); clear(b[4096+16 : 4096+80]); return b })
		}, []string{filepath.Join("snap", "db")}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			dir := stopped(t)
			tc.damage(t, dir)
			before := listing(t, dir)
			said, code := run(t, quiet(dir)...)
			wants(t, said, code, 1, tc.says...)
			if listing(t, dir) != before {
				t.Error("the directory changed")
			}
		})
	}
}

func rm(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// TestTornTailIsRepaired: a crash in the middle of the last write is no damage.
func TestTornTailIsRepaired(t *testing.T) {
	c := cluster.New(t, cluster.Options{})
	m := c.Members[0]
	if _, err := m.Client().Put(context.Background(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	m.Kill()
	edit(t, segment(t, m.Dir), func(b []byte) []byte {
		n := (used(b) + 7) &^ 7                             // frames begin at multiples of eight
		copy(b[n:], []byte{200, 0, 0, 0, 0, 0, 0, 0, 8, 2}) // a frame whose body was never written
		return b[:n+10]
	})
	m.Start()
	m.WaitHealthy()
	r, err := m.Client().Get(context.Background(), "k")
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("got %v %v", r, err)
	}
}
