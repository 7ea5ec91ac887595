package server

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"theseus/snap"
)

// contents maps every file below dir to a digest of what it holds.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			all[path] = "dir"
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = fmt.Sprintf("%x", sha256.Sum256(b))
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return all
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// pathsOf are the places in a member's directory.
func pathsOf(m *testMember) (db, walDir string) {
	return filepath.Join(m.o.DataDir, "member", "snap", "db"), filepath.Join(m.o.DataDir, "member", "wal")
}

// TestRefusals damages the directory of a stopped member in every way that must be told
// by name, and looks that nothing on disk has changed after the refusal.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, m *testMember)
		want   []string // all of these are in the error
	}{
		{"foreign directory", func(t *testing.T, m *testMember) {
			must(t, os.RemoveAll(m.o.DataDir))
			must(t, os.MkdirAll(m.o.DataDir, 0o700))
			must(t, os.WriteFile(filepath.Join(m.o.DataDir, "ibdata1"), []byte("x"), 0o600))
		}, []string{"ibdata1", "--data-dir"}},
		{"proxy directory", func(t *testing.T, m *testMember) {
			must(t, os.MkdirAll(filepath.Join(m.o.DataDir, "proxy"), 0o700))
		}, []string{"proxy", "--data-dir"}},
		{"db missing", func(t *testing.T, m *testMember) {
			db, _ := pathsOf(m)
			must(t, os.Remove(db))
		}, []string{"database file", "is missing", "snap/db"}},
		{"log missing", func(t *testing.T, m *testMember) {
			_, w := pathsOf(m)
			must(t, os.RemoveAll(w))
		}, []string{"no log in", "--wal-dir"}},
		{"log ends before the db", func(t *testing.T, m *testMember) {
			_, w := pathsOf(m)
			kept := filepath.Join(t.TempDir(), "wal")
			copyDir(t, w, kept)
			m.start()
			m.put("later", "x")
			m.stop()
			copyDir(t, kept, w)
		}, []string{"ends at index", "before index", "nothing was changed"}},
		{"db behind its snapshot", func(t *testing.T, m *testMember) {
			putBackOldDB(t, m)
		}, []string{"does not match with snapshot", "is not found"}},
		{"a bit of the log", func(t *testing.T, m *testMember) {
			_, w := pathsOf(m)
			segments, err := filepath.Glob(filepath.Join(w, "*.wal"))
			must(t, err)
			b, err := os.ReadFile(segments[0])
			must(t, err)
			b[200] ^= 1
			must(t, os.WriteFile(segments[0], b, 0o600))
		}, []string{".wal", "at byte"}},
		{"no database", func(t *testing.T, m *testMember) {
			db, _ := pathsOf(m)
			must(t, os.WriteFile(db, []byte(strings.Repeat("no pages here ", 4096)), 0o600))
		}, []string{"snap/db"}},
		{"newer than the server", func(t *testing.T, m *testMember) {
			m.o.EmulateVersion = "3.5.0"
		}, []string{"3.7"}},
		{"wrong name", func(t *testing.T, m *testMember) {
			must(t, os.RemoveAll(m.o.DataDir))
			m.o.Name = "somebody"
		}, []string{`couldn't find local name "somebody" in the initial cluster configuration`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, 1, func(_ int, o *Options) { o.SnapshotCount, o.CatchUpEntries = 10, 5 })
			m := c.members[0]
			m.t = t
			for range 15 {
				m.put("a", "x")
			}
			c.eventually("the version", func() bool { _, cv, storage := m.Versions(); return cv == "3.7.0" && storage == "3.7.0" })
			m.stop()
			tt.damage(t, m)
			before := contents(t, m.o.DataDir)
			err := m.tryStart()
			if err == nil {
				t.Fatal("it started")
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error %q does not say %q", err, part)
				}
			}
			after := contents(t, m.o.DataDir)
			for _, path := range slices.Sorted(maps.Keys(after)) {
				if before[path] != after[path] {
					t.Errorf("%s has changed", path)
				}
			}
			if len(after) != len(before) {
				t.Errorf("%d files before, %d after", len(before), len(after))
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// putBackOldDB runs the member past a snapshot and then gives it its older database; the
// newer one is returned, with the index of the snapshot.
func putBackOldDB(t *testing.T, m *testMember) (newer string, id snap.ID) {
	t.Helper()
	db, _ := pathsOf(m)
	old, newer := filepath.Join(t.TempDir(), "old"), filepath.Join(t.TempDir(), "newer")
	copyFile(t, db, old)
	m.start()
	before := m.node.Status().SnapshotIndex
	for range 40 {
		m.put("a", "y")
	}
	(&testCluster{t: t}).eventually("a snapshot", func() bool { return m.node.Status().SnapshotIndex > before+15 })
	m.stop()
	d, err := snap.Open(m.Server.o.FS, filepath.Dir(db))
	must(t, err)
	all, err := d.List()
	must(t, err)
	if len(all) == 0 {
		t.Fatal("there is no snapshot")
	}
	copyFile(t, db, newer)
	copyFile(t, old, db)
	return newer, all[0]
}

// TestSwitchIn has a crash between a received snapshot and its database.
func TestSwitchIn(t *testing.T) {
	m := newCluster(t, 1, func(_ int, o *Options) { o.SnapshotCount, o.CatchUpEntries = 10, 5 }).members[0]
	m.put("a", "x")
	m.stop()
	newer, id := putBackOldDB(t, m)
	db, _ := pathsOf(m)
	copyFile(t, newer, filepath.Join(filepath.Dir(db), fmt.Sprintf("%016x.snap.db", id.Index)))
	m.start()
	if got := m.get("a"); got != "y" {
		t.Errorf("a = %q", got)
	}
}

// TestSecondServer starts on a directory that is in use.
func TestSecondServer(t *testing.T) {
	m := newCluster(t, 1, nil).members[0]
	m.put("a", "1")
	o := m.o
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "db") || !strings.Contains(err.Error(), "another") {
		t.Errorf("a second server on the directory: %v", err)
	}
	m.put("a", "2")
}

// TestInterruptedBirth starts again after a first start that left an empty log.
func TestInterruptedBirth(t *testing.T) {
	c := &testCluster{t: t}
	m := c.member("m0")
	s, err := New(m.o)
	must(t, err)
	s.abandon()
	m.start()
	m.put("a", "1")
	m.stop()
	m.start()
	if got := m.get("a"); got != "1" {
		t.Errorf("a = %q", got)
	}
}

// TestForceNewCluster makes one member of three a cluster of its own.
func TestForceNewCluster(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.leader().put("a", "1")
	c.agree()
	for _, m := range c.members {
		m.stop()
	}
	m := c.members[1]
	m.o.ForceNewCluster = true
	m.start()
	if got := m.get("a"); got != "1" {
		t.Errorf("a = %q", got)
	}
	m.put("b", "2")
	if all := m.members().Members(); len(all) != 1 || all[0].ID != m.ID() {
		t.Errorf("members: %v", all)
	}
	m.stop()
	m.o.ForceNewCluster = false
	m.start()
	if got := m.get("b"); got != "2" {
		t.Errorf("after a restart b = %q", got)
	}
}
