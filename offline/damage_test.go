package offline_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/test/cluster"
)

// edit changes the bytes of the first file that a pattern below dir matches.
func edit(t *testing.T, dir, pattern string, change func([]byte) []byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("no %s: %v", pattern, err)
	}
	name := names[len(names)-1]
	if err := os.WriteFile(name, change(must[[]byte](t)(os.ReadFile(name))), 0o600); err != nil {
		t.Fatal(err)
	}
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		b[at] ^= 0x10
		return b
	}
}

// corruptPages gives every page but the meta pages another number.
func corruptPages(b []byte) []byte {
	for at := 2 * 4096; at < len(b); at += 4096 {
		b[at] ^= 0x40
	}
	return b
}

// tree is every file below dir with its content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all[path] = string(must[[]byte](t)(os.ReadFile(path)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestVerifyNamesDamage damages one file of a member at a time.
func TestVerifyNamesDamage(t *testing.T) {
	c := cluster.New(t, cluster.Options{Args: []string{"--snapshot-count", "20"}})
	ctx, client := context.Background(), c.Members[0].Client()
	for i := range 200 {
		must[*clientv3.PutResponse](t)(client.Put(ctx, fmt.Sprintf("k%d", i), strings.Repeat("v", 100)))
	}
	if r := ours("verify", "--data-dir", c.Members[0].Dir, "--timeout", "10ms"); r.Code != 1 || !strings.Contains(r.Stderr, "holds its lock") {
		t.Errorf("verify of a running member: %+v", r)
	}
	c.Members[0].Stop()
	const db, segment, snapshots = "member/snap/db", "member/wal/*.wal", "member/snap/*.snap"
	for name, test := range map[string]struct {
		damage func(dir string)
		want   []string
	}{
		"whole":         {func(string) {}, []string{"ok: member "}},
		"wal bit":       {func(dir string) { edit(t, dir, segment, flip(300)) }, []string{"damaged: ", ".wal at offset "}},
		"wal gone":      {func(dir string) { remove(t, filepath.Join(dir, "member/wal")) }, []string{"damaged: ", "there is no write-ahead log"}},
		"snap bit":      {func(dir string) { edit(t, dir, snapshots, flip(100)) }, []string{"damaged: ", ".snap: "}},
		"db page":       {func(dir string) { edit(t, dir, db, flip(20)); edit(t, dir, db, flip(4096+20)) }, []string{"damaged: ", "db at offset 0"}},
		"db gone":       {func(dir string) { remove(t, filepath.Join(dir, db)) }, []string{"damaged: ", "the database is missing"}},
		"db short":      {func(dir string) { edit(t, dir, db, func(b []byte) []byte { return b[:8192] }) }, []string{"damaged: ", "truncated?"}},
		"log too short": {func(dir string) { oldLog(t, dir) }, []string{"damaged: ", "but the log ends at 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(dir, os.DirFS(c.Members[0].Dir)); err != nil {
				t.Fatal(err)
			}
			test.damage(dir)
			before := tree(t, dir)
			r := ours("verify", "--data-dir", dir)
			if want := 1; (r.Code == want) == (name == "whole") {
				t.Errorf("exit code %d", r.Code)
			}
			for _, want := range test.want {
				if !strings.Contains(r.Stdout, want) {
					t.Errorf("%q is missing in %+v", want, r)
				}
			}
			after := tree(t, dir)
			for file, content := range before {
				if after[file] != content {
					t.Errorf("%s was changed", file)
				}
			}
			if len(after) != len(before) {
				t.Error("files came or went")
			}
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// oldLog puts the log and the snapshots of a restored member in the place of the
// directory's own.
func oldLog(t *testing.T, dir string) {
	t.Helper()
	other := filepath.Join(t.TempDir(), "other")
	if r := ours("snapshot", "restore", filepath.Join(dir, "member/snap/db"), "--skip-hash-check", "--data-dir", other); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	if err := os.Rename(filepath.Join(dir, "member/snap/db"), filepath.Join(other, "member/snap/db")); err != nil {
		t.Fatal(err)
	}
	remove(t, dir)
	if err := os.Rename(other, dir); err != nil {
		t.Fatal(err)
	}
}

// TestStatusNamesDamage: a backup that is not what was saved is not called good.
func TestStatusNamesDamage(t *testing.T) {
	path := snapshot(t, "3.7", history(t))
	size := len(must[[]byte](t)(os.ReadFile(path)))
	for name, test := range map[string]struct {
		change func([]byte) []byte
		want   string
	}{
		"a bit of a value":    {flip(size - 5000), "expected sha256 ["},
		"a bit of the hash":   {flip(size - 1), "expected sha256 ["},
		"cut at a page":       {func(b []byte) []byte { return b[:8192] }, "is damaged at offset 8192: "},
		"no hash, a bad page": {func(b []byte) []byte { return corruptPages(b[:len(b)-32]) }, "is damaged at offset "},
		"no database":         {func([]byte) []byte { return []byte("hello\n") }, "is damaged at offset 0: "},
		"empty":               {func([]byte) []byte { return nil }, "is damaged at offset 0: the file is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := copyFile(t, path)
			edit(t, filepath.Dir(bad), filepath.Base(bad), test.change)
			r := ours("snapshot", "status", bad)
			if r.Code != 1 || r.Stdout != "" || !strings.Contains(r.Stderr, test.want) || !strings.Contains(r.Stderr, bad) {
				t.Errorf("%+v, want %q", r, test.want)
			}
		})
	}
}
