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

// restoreAll restores a snapshot into every member of a cluster that has not started.
func restoreAll(t *testing.T, c *cluster.Cluster, path string, more ...string) {
	t.Helper()
	for _, m := range c.Members {
		args := append([]string{
			"snapshot", "restore", path, "--data-dir", m.Dir, "--name", m.Name, "--initial-cluster", c.InitialCluster(),
			"--initial-advertise-peer-urls", m.PeerURL(),
		}, more...)
		if r := ours(args...); r.Code != 0 || r.Stdout != "" {
			t.Fatalf("restore: %+v", r)
		}
		if r := ours("verify", "--data-dir", m.Dir); r.Code != 0 || !strings.Contains(r.Stdout, "ok: ") || strings.Contains(r.Stdout, "note") {
			t.Fatalf("verify: %+v", r)
		}
	}
}

// TestRestoreStarts restores a snapshot and starts every server on it that there is,
// alone and as three members.
func TestRestoreStarts(t *testing.T) {
	path := snapshot(t, "3.5", history(t))
	for _, name := range []string{"theseus", "3.5", "3.6", "3.7"} {
		for _, size := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s/%d", name, size), func(t *testing.T) { checkRestore(t, path, name, size) })
		}
	}
}

// TestRestoreOfNewest is the same with a snapshot of 3.7.
func TestRestoreOfNewest(t *testing.T) {
	path := snapshot(t, "3.7", history(t))
	for _, name := range []string{"theseus", "3.7", "3.5"} {
		t.Run(name, func(t *testing.T) { checkRestore(t, path, name, 1) })
	}
}

func binary(t *testing.T, name string) cluster.Binary {
	t.Helper()
	if name == "theseus" {
		return cluster.Theseus(t)
	}
	return cluster.Etcd(t, name)
}

func checkRestore(t *testing.T, path, name string, size int) {
	t.Helper()
	c := cluster.Prepare(t, cluster.Options{Size: size, Binary: binary(t, name)})
	restoreAll(t, c, path)
	for _, m := range c.Members {
		m.Start()
	}
	c.WaitHealthy()
	ctx, client := context.Background(), c.Client()
	r := must[*clientv3.GetResponse](t)(client.Get(ctx, "", clientv3.WithPrefix()))
	if r.Count != 22 || r.Header.Revision != 26 {
		t.Errorf("%d keys at revision %d, want 22 at 26", r.Count, r.Header.Revision)
	}
	l := must[*clientv3.LeaseLeasesResponse](t)(client.Leases(ctx))
	if len(l.Leases) != 1 {
		t.Errorf("leases: %v", l.Leases)
	}
	u := must[*clientv3.AuthUserListResponse](t)(client.UserList(ctx))
	if len(u.Users) != 1 {
		t.Errorf("users: %v", u.Users)
	}
	m := must[*clientv3.MemberListResponse](t)(client.MemberList(ctx))
	if len(m.Members) != size {
		t.Errorf("members: %v", m.Members)
	}
	must[*clientv3.PutResponse](t)(client.Put(ctx, "after", "v"))
}

// TestRestoreBumped: clients find out that everything they have seen is compacted.
func TestRestoreBumped(t *testing.T) {
	path := snapshot(t, "3.7", history(t))
	var hashes []uint32
	for _, name := range []string{"theseus", "3.7"} {
		t.Run(name, func(t *testing.T) {
			c := cluster.Prepare(t, cluster.Options{Binary: binary(t, name)})
			restoreAll(t, c, path, "--bump-revision", "1000000", "--mark-compacted")
			theirs := filepath.Join(t.TempDir(), "theirs")
			etcdutl(t, "snapshot", "restore", path, "--data-dir", theirs, "--bump-revision", "1000000", "--mark-compacted")
			one, two := ours("hashkv", filepath.Join(theirs, "member/snap/db")), ours("hashkv", filepath.Join(c.Members[0].Dir, "member/snap/db"))
			if one != two {
				t.Errorf("etcdutl made %+v, ours %+v", one, two)
			}
			c.Members[0].Start()
			c.WaitHealthy()
			ctx, client := context.Background(), c.Client()
			r := must[*clientv3.GetResponse](t)(client.Get(ctx, "k05"))
			if r.Header.Revision != 1000026 || r.Count != 1 {
				t.Errorf("revision %d, count %d", r.Header.Revision, r.Count)
			}
			if _, err := client.Get(ctx, "k05", clientv3.WithRev(26)); err == nil || !strings.Contains(err.Error(), "compacted") {
				t.Errorf("read at an old revision: %v", err)
			}
			h, err := c.Members[0].HashKV(ctx, 0)
			if err != nil {
				t.Fatal(err)
			}
			hashes = append(hashes, h.Hash)
		})
	}
	if len(hashes) == 2 && hashes[0] != hashes[1] {
		t.Errorf("hashes differ: %v", hashes)
	}
}

// TestRestoreAllOrNothing: a restore that fails leaves nothing, and one into
// directories of its own works.
func TestRestoreAllOrNothing(t *testing.T) {
	path := snapshot(t, "3.7", history(t))
	b := must[[]byte](t)(os.ReadFile(path))
	b[len(b)/2] ^= 1
	bad := copyFile(t, path)
	if err := os.WriteFile(bad, b, 0o600); err != nil {
		t.Fatal(err)
	}
	raw := copyFile(t, path)
	if err := os.Truncate(raw, int64(len(b)-32)); err != nil {
		t.Fatal(err)
	}
	short := copyFile(t, path)
	if err := os.Truncate(short, int64(len(b)/2/4096*4096)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	data, wals := filepath.Join(dir, "deep", "data"), filepath.Join(dir, "log", "wal")
	for _, line := range []struct{ file, flags, want string }{
		{bad, "", "expected sha256 ["},
		{raw, "", "snapshot missing hash but --skip-hash-check=false"},
		{short, "--skip-hash-check", "is damaged at offset"},
		{path + "x", "", "no such file or directory"},
	} {
		r := ours(strings.Fields("snapshot restore " + line.file + " " + line.flags + " --data-dir " + data + " --wal-dir " + wals)...)
		if r.Code != 1 || !strings.Contains(r.Stderr, line.want) {
			t.Errorf("%s: %+v, want %q", line.file, r, line.want)
		}
		if left := must[[]os.DirEntry](t)(os.ReadDir(dir)); len(left) != 0 {
			t.Fatalf("%s left %v", line.file, left)
		}
	}
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	if r := ours("snapshot", "restore", raw, "--skip-hash-check", "--data-dir", empty, "--wal-dir", wals); r.Code != 0 {
		t.Fatalf("restore into an empty directory: %+v", r)
	}
	if r := ours("verify", "--data-dir", empty, "--wal-dir", wals); r.Code != 0 {
		t.Errorf("verify: %+v", r)
	}
	if left := must[[]os.DirEntry](t)(os.ReadDir(empty)); len(left) != 1 || left[0].Name() != "member" {
		t.Errorf("the data directory has %v", left)
	}
	if r := ours("snapshot", "restore", path, "--data-dir", empty); r.Code != 1 {
		t.Errorf("restore over a member: %+v", r)
	}
}
