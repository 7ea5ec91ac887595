package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/backup"
	"theseus/internal/vfs"
	"theseus/test/cluster"
)

// fill writes keys, overwrites, deletes and compacts, so that an image has all there is.
func fill(t *testing.T, cli *clientv3.Client) {
	t.Helper()
	ctx := t.Context()
	var rev int64
	for i := range 60 {
		r, err := cli.Put(ctx, fmt.Sprintf("k%02d", i%40), strings.Repeat("v", 100*i))
		if err != nil {
			t.Fatal(err)
		}
		rev = r.Header.Revision
	}
	if _, err := cli.Delete(ctx, "k03"); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.Compact(ctx, rev-10); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.Put(ctx, "last", "one"); err != nil {
		t.Fatal(err)
	}
}

func options(t *testing.T, c *cluster.Cluster) backup.Options {
	return backup.Options{
		Archive: "dir:" + filepath.Join(t.TempDir(), "archive"), Cluster: "prod", Source: c.Client(0),
		Endpoint: c.Endpoints(0)[0], Witnesses: c.Endpoints(), Tool: "test",
	}
}

func names(t *testing.T, archive string) []string {
	t.Helper()
	files, err := os.ReadDir(strings.TrimPrefix(archive, "dir:"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var all []string
	for _, f := range files {
		all = append(all, f.Name())
	}
	return all
}

// TestTake backs up each kind of cluster there is, and restores what came.
func TestTake(t *testing.T) {
	t.Parallel()
	for _, minor := range []string{"3.3", "3.4", "3.5", "3.6", "3.7", "theseus"} {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			o := cluster.Options{Size: 1}
			if minor == "3.4" {
				o.Size = 3
			}
			if minor == "theseus" {
				o.Binary = cluster.Theseus(t)
			} else {
				o.Binary = cluster.Etcd(t, minor)
			}
			c := cluster.New(t, o)
			fill(t, c.Client(0))
			opts := options(t, c)
			var stages []backup.Stage
			opts.Progress = func(p backup.Progress) {
				if len(stages) == 0 || stages[len(stages)-1] != p.Stage {
					stages = append(stages, p.Stage)
				}
			}
			m, err := backup.Take(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]backup.Stage{backup.Receiving, backup.Restoring, backup.Comparing, backup.Kept}, stages); diff != "" {
				t.Error("stages:", diff)
			}
			if m.Proven() != o.Size || m.Revision != 63 || m.Compacted != 51 || m.Keys != 40 || len(m.Members) != o.Size {
				t.Errorf("manifest is %+v", m)
			}
			if minor != "theseus" && !strings.HasPrefix(m.Versions.Cluster, minor) {
				t.Errorf("versions are %+v", m.Versions)
			}
			all, err := backup.List(opts.Archive)
			if diff := cmp.Diff([]backup.Manifest{m}, all); diff != "" || err != nil {
				t.Error("list:", err, diff)
			}
			if _, err := backup.Verify(t.Context(), opts.Archive, m.ID); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff([]string{m.ID + ".db", m.ID + ".json"}, names(t, opts.Archive)); diff != "" {
				t.Error("archive:", diff)
			}
			comesBack(t, opts.Archive, m, o.Binary)
		})
	}
}

// comesBack starts the program that a backup was taken of on what is restored from it.
func comesBack(t *testing.T, archive string, m backup.Manifest, b cluster.Binary) {
	t.Helper()
	c := cluster.Prepare(t, cluster.Options{Size: 1, Binary: b})
	one := c.Members[0]
	err := backup.Restore(archive, m.ID, backup.RestoreOptions{DataDir: one.Dir, Name: one.Name, Cluster: c.InitialCluster(), PeerURLs: one.PeerURL()})
	if err != nil {
		t.Fatal(err)
	}
	one.Start()
	c.WaitHealthy()
	r, err := c.Client().Get(t.Context(), "last")
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "one" {
		t.Errorf("restored, last is %v %v", r, err)
	}
}

// TestTakeUnderLoad takes a backup while keys are written and compacted: the proof holds
// for the image's own revision.
func TestTakeUnderLoad(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Size: 3, Binary: cluster.Etcd(t, "3.4")})
	cli := c.Client()
	fill(t, cli)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		for n := 0; ; n++ {
			r, err := cli.Put(ctx, fmt.Sprintf("k%02d", n%40), fmt.Sprint(n))
			if err == nil && n%20 == 0 && n > 60 {
				_, err = cli.Compact(ctx, r.Header.Revision-60)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	o := options(t, c)
	for range 3 {
		m, err := backup.Take(t.Context(), o)
		if err != nil && strings.Contains(err.Error(), "has been compacted") {
			continue // it says to try again, and is right
		}
		if err != nil || m.Proven() == 0 {
			t.Error(m, err)
		}
	}
	stop()
	if err := <-ended; ctx.Err() == nil || !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "canceled") {
		t.Error(err)
	}
}

// lying is a source of which a test spoils one thing.
type lying struct {
	*clientv3.Client
	image func([]byte) []byte
	hash  func(endpoint string, rev int64) (*clientv3.HashKVResponse, error)
	hang  bool
}

func (l *lying) Snapshot(ctx context.Context) (io.ReadCloser, error) {
	if l.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r, err := l.Client.Snapshot(ctx)
	if err != nil || l.image == nil {
		return r, err
	}
	defer r.Close() //nolint:errcheck // only read
	all, err := io.ReadAll(r)
	return io.NopCloser(bytes.NewReader(l.image(all))), err
}

func (l *lying) HashKV(ctx context.Context, endpoint string, rev int64) (*clientv3.HashKVResponse, error) {
	if l.hash != nil {
		return l.hash(endpoint, rev)
	}
	return l.Client.HashKV(ctx, endpoint, rev)
}

// TestTakeRefuses spoils one thing at a time: never is there a manifest for it.
func TestTakeRefuses(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Size: 1, Binary: cluster.Theseus(t)})
	fill(t, c.Client(0))
	full := errors.New("no space left on device")
	cases := []struct {
		name, want string
		left       string // suffix of what is kept
		spoil      func(o *backup.Options, l *lying)
	}{
		{"a byte is not what was sent", "do not end in their own checksum", "", func(_ *backup.Options, l *lying) {
			l.image = func(b []byte) []byte { b[20000] ^= 1; return b }
		}},
		{"the end is missing", "do not end in their own checksum", "", func(_ *backup.Options, l *lying) {
			l.image = func(b []byte) []byte { return b[:len(b)-40] }
		}},
		{"the member has other data", "the backup is not proven: restored it has the hash", ".db.unproven", func(_ *backup.Options, l *lying) {
			l.hash = func(string, int64) (*clientv3.HashKVResponse, error) {
				return &clientv3.HashKVResponse{Hash: 1, CompactRevision: 51}, nil
			}
		}},
		{"nobody tells a hash", "no live member told its hash", ".db.unproven", func(_ *backup.Options, l *lying) {
			l.hash = func(string, int64) (*clientv3.HashKVResponse, error) { return nil, errors.New("gone") }
		}},
		{"the disk is full while the image comes", "no space left", "", func(o *backup.Options, _ *lying) {
			o.FS = vfs.NewFault(vfs.OS, func(op vfs.Op, _ string) error {
				if op == vfs.OpWrite {
					return full
				}
				return nil
			})
		}},
		{"the disk is full at the manifest", "no space left", ".db", func(o *backup.Options, _ *lying) {
			o.FS = vfs.NewFault(vfs.OS, func(op vfs.Op, path string) error {
				if op == vfs.OpWrite && strings.Contains(path, ".json") {
					return full
				}
				return nil
			})
		}},
		{"the cluster has no name", "give it a name", "", func(o *backup.Options, _ *lying) { o.Cluster = "../x" }},
		{"the archive is no directory", "write dir:", "", func(o *backup.Options, _ *lying) { o.Archive = "s3:bucket" }},
	}
	for _, k := range cases {
		t.Run(k.name, func(t *testing.T) {
			o := options(t, c)
			l := &lying{Client: c.Client(0)}
			o.Source = l
			dir := o.Archive
			k.spoil(&o, l)
			_, err := backup.Take(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), k.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("error is %v, want one line with %q", err, k.want)
			}
			if all, err := backup.List(dir); len(all) != 0 || err != nil {
				t.Errorf("there are backups %v %v", all, err)
			}
			left := names(t, dir)
			if k.left == "" && len(left) > 0 || k.left != "" && (len(left) != 1 || !strings.HasSuffix(left[0], k.left)) {
				t.Errorf("the archive holds %v, want one %q", left, k.left)
			}
		})
	}
}

// TestTakeStops ends a backup whose source hangs as soon as the caller says so.
func TestTakeStops(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Size: 1, Binary: cluster.Theseus(t)})
	o := options(t, c)
	o.Source = &lying{Client: c.Client(0), hang: true}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errors.New("enough"))
	defer cancel()
	if _, err := backup.Take(ctx, o); err == nil || !strings.HasSuffix(err.Error(), "enough") {
		t.Errorf("error is %v", err)
	}
	if left := names(t, o.Archive); len(left) > 0 {
		t.Errorf("the archive holds %v", left)
	}
}

// TestVerifyFinds changes one byte of a backup, and then its manifest.
func TestVerifyFinds(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Size: 1, Binary: cluster.Theseus(t)})
	fill(t, c.Client(0))
	o := options(t, c)
	m, err := backup.Take(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	dir := strings.TrimPrefix(o.Archive, "dir:")
	change := func(name string, f func([]byte) []byte) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), f(data), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	flip := func(b []byte) []byte { b[20000] ^= 1; return b }
	change(m.File, flip)
	if _, err := backup.Verify(t.Context(), o.Archive, m.ID); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a changed image: %v", err)
	}
	change(m.File, flip)
	if _, err := backup.Verify(t.Context(), o.Archive, m.ID); err != nil {
		t.Errorf("as it was: %v", err)
	}
	change(m.ID+".json", func(b []byte) []byte { return bytes.Replace(b, []byte(`"revision": 63`), []byte(`"revision": 64`), 1) })
	if _, err := backup.Verify(t.Context(), o.Archive, m.ID); err == nil || !strings.Contains(err.Error(), "changed after it was written") {
		t.Errorf("a changed manifest: %v", err)
	}
	if _, err := backup.Load(o.Archive, "../"+m.ID); err == nil {
		t.Error("a path was taken for an ID")
	}
}

// TestTakeWithoutOne takes a backup while a member is down: the others prove it, and the
// manifest says who did not.
func TestTakeWithoutOne(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Size: 3, Binary: cluster.Theseus(t)})
	fill(t, c.Client())
	c.Members[2].Kill()
	m, err := backup.Take(t.Context(), options(t, c))
	if err != nil || m.Proven() != 2 || m.Witnesses[2].Err == "" {
		t.Errorf("%v %+v", err, m)
	}
}

// TestCommand types the three verbs.
func TestCommand(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Size: 1, Binary: cluster.Theseus(t)})
	fill(t, c.Client(0))
	archive := "dir:" + filepath.Join(t.TempDir(), "a")
	for _, k := range []struct {
		args string
		code int
		out  string // in stdout
		errs string // in stderr
	}{
		{"", 2, "", "USAGE"},
		{"--help", 0, "EXAMPLE", ""},
		{"take", 2, "", "--archive is missing"},
		{"take --archive " + archive, 2, "", "--cluster and --endpoints"},
		{"take --archive " + archive + " --cluster prod --endpoints x --cert y", 2, "", "--cert and --key go together"},
		{"list --archive " + archive, 0, "ID  TAKEN", ""},
		{"verify --archive " + archive, 1, "", "there is no backup in"},
		{"take --archive " + archive + " --cluster prod --endpoints " + c.Endpoints()[0], 0, "revision 63, 40 keys", "comparing"},
		{"list --archive " + archive + " -o json", 0, `"revision": 63`, ""},
		{"list --archive " + archive, 0, "1 of 1", ""},
		{"verify --archive " + archive, 0, "equal at 1 live members", ""},
		{"verify --archive " + archive + " --id nothing", 1, "", "there is no manifest"},
		{"verify stray --archive " + archive, 2, "", "nothing to say beside the flags"},
	} {
		var out, errs bytes.Buffer
		code := backup.Main(strings.Fields(k.args), &out, &errs)
		if code != k.code || !strings.Contains(out.String(), k.out) || !strings.Contains(errs.String(), k.errs) {
			t.Errorf("%q: exit code %d\n%s%s", k.args, code, out.String(), errs.String())
		}
	}
}

// TestTakeWithLogin takes a backup of clusters that want one, and says what is missing
// to a user who is not root.
func TestTakeWithLogin(t *testing.T) {
	t.Parallel()
	for _, b := range []cluster.Binary{cluster.Etcd(t, "3.4"), cluster.Theseus(t)} {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			c := cluster.New(t, cluster.Options{Size: 1, Binary: b})
			cli, ctx := c.Client(), t.Context()
			fill(t, cli)
			for _, user := range []string{"root", "guest"} {
				if _, err := cli.UserAdd(ctx, user, "secret"); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := cli.RoleAdd(ctx, "root"); err != nil {
				t.Fatal(err)
			}
			if _, err := cli.UserGrantRole(ctx, "root", "root"); err != nil {
				t.Fatal(err)
			}
			if _, err := cli.AuthEnable(ctx); err != nil {
				t.Fatal(err)
			}
			for _, user := range []string{"root", "guest"} {
				in, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), Username: user, Password: "secret", DialTimeout: 5 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				o := options(t, c)
				o.Source = in
				m, err := backup.Take(ctx, o)
				if err2 := in.Close(); err2 != nil {
					t.Error(err2)
				}
				if user == "root" && (err != nil || m.Proven() != 1) {
					t.Errorf("root: %v %+v", err, m)
				}
				if user == "guest" && (err == nil || !strings.Contains(err.Error(), "permission denied")) {
					t.Errorf("guest: %v", err)
				}
			}
		})
	}
}
