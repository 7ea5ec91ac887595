package offline_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/offline"
	"theseus/test/cluster"
)

// result is what one run of a tool left.
type result struct {
	Code           int
	Stdout, Stderr string
}

func ours(args ...string) result {
	var stdout, stderr bytes.Buffer
	code := offline.Main(args, strings.NewReader(""), &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

func etcdutl(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(cluster.Peer(t, "3.7", "etcdutl"), args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ended := new(exec.ExitError); !errors.As(err, &ended) {
			t.Fatal(err)
		}
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// logLine is a line of the log on stderr, which names source files and times.
var logLine = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT.*\n`)

// verifyLine is what help and completion say of the command that etcdutl does not have.
var verifyLine = regexp.MustCompile(`(?ms)^_etcdutl_verify\(\).*?^}\n\n|^    commands\+=\("verify"\)\n|^  verify [^\n]*\n`)

func (r result) comparable() result {
	r.Stdout = verifyLine.ReplaceAllString(r.Stdout, "")
	r.Stderr = verifyLine.ReplaceAllString(logLine.ReplaceAllString(r.Stderr, ""), "")
	return r
}

// snapshot runs a real member, writes to it and saves its snapshot as etcdctl does.
func snapshot(t *testing.T, minor string, write func(context.Context, *clientv3.Client)) string {
	t.Helper()
	c := cluster.New(t, cluster.Options{Binary: cluster.Etcd(t, minor)})
	ctx := context.Background()
	client := c.Members[0].Client()
	write(ctx, client)
	r, err := client.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "snap.db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Members[0].Stop()
	return path
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// history leaves puts, deletes, a compaction, leases and users behind: 22 keys,
// compacted at 10, newest revision 26.
func history(t *testing.T) func(context.Context, *clientv3.Client) {
	return func(ctx context.Context, c *clientv3.Client) {
		put := must[*clientv3.PutResponse](t)
		for i := range 22 {
			put(c.Put(ctx, fmt.Sprintf("k%02d", i), "v"))
		}
		put(c.Put(ctx, "k01", "again"))
		must[*clientv3.DeleteResponse](t)(c.Delete(ctx, "k02"))
		l := must[*clientv3.LeaseGrantResponse](t)(c.Grant(ctx, 6000))
		put(c.Put(ctx, "leased", "v", clientv3.WithLease(l.ID)))
		must[*clientv3.CompactResponse](t)(c.Compact(ctx, 10))
		must[*clientv3.AuthUserAddResponse](t)(c.UserAdd(ctx, "u", "pw"))
	}
}

func copyFile(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(to, must[[]byte](t)(os.ReadFile(from)), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestCommandLines compares help, errors and exit codes with etcdutl's.
func TestCommandLines(t *testing.T) {
	for _, line := range []string{
		"", "help", "-h", "nope", "--nope", "options", "help nope", "help help", "help snapshot", "version", "version x", "version -h",
		"snapshot", "snapshot nope", "snapshot -h", "snapshot status", "snapshot status a b", "snapshot status -h",
		"snapshot status /absent", "snapshot restore", "snapshot restore a b", "snapshot restore -h", "snapshot --timeout=x",
		"snapshot restore /absent --data-dir DIR/a", "snapshot restore /absent --data-dir DIR",
		"snapshot restore /absent --data-dir DIR/a --bump-revision 1", "snapshot restore /absent --data-dir DIR/a --mark-compacted",
		"snapshot restore /absent --data-dir DIR/a --name q", "snapshot restore /absent --data-dir DIR/a --initial-cluster a",
		"snapshot restore /absent --data-dir DIR/a --initial-cluster a=foo --initial-advertise-peer-urls bar",
		"snapshot restore /absent --data-dir DIR/a --initial-cluster a=http://127.0.0.1:1/x --name a",
		"snapshot restore /absent --data-dir DIR/a --initial-cluster a=http://127.0.0.1 --name a",
		"snapshot restore /absent --data-dir DIR/a --initial-cluster a=http://127.0.0.1:1 --name a",
		"snapshot restore /absent --data-dir DIR/a --initial-cluster a=http://127.0.0.1:1,b=http://127.0.0.1:1 --name a --initial-advertise-peer-urls http://127.0.0.1:1",
		"snapshot restore /absent --data-dir DIR/a --initial-cluster a=http://127.0.0.1:1 --name a --initial-advertise-peer-urls http://127.0.0.1:1,http://127.0.0.1:2",
		"snapshot restore /absent --data-dir DIR/a --initial-cluster a=http://127.0.0.1:1 --name a --initial-advertise-peer-urls http://127.0.0.1:3,http://127.0.0.1:2",
		"snapshot restore /absent --data-dir DIR/a --initial-cluster a=http://127.0.0.1:1 --name a --initial-advertise-peer-urls http://127.0.0.1:3",
		"snapshot restore /absent --data-dir DIR/a --wal-dir DIR",
		"hashkv", "hashkv a b", "hashkv -h", "hashkv /absent", "hashkv --rev x", "defrag", "defrag -h", "defrag --data-dir /absent",
		"migrate", "migrate -h", "migrate --data-dir /absent --target-version 3.6", "migrate --data-dir /absent --target-version abc",
		"migrate --data-dir /absent --target-version 3.4", "migrate --data-dir /absent --target-version 3.6.1",
		"completion", "completion -h", "completion foo", "completion bash x", "completion zsh", "completion fish", "completion powershell", "completion bash",
		"__complete --write-out EMPTY", "__complete snapshot restore --wal-dir EMPTY", "__complete migrate --data-dir EMPTY",
	} {
		t.Run(line, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "something"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			args := strings.Fields(strings.ReplaceAll(line, "DIR", dir))
			for i, a := range args {
				if a == "EMPTY" {
					args[i] = ""
				}
			}
			want := etcdutl(t, args...).comparable()
			remove(t, filepath.Join(dir, "a")) // etcdutl may leave it
			if d := cmp.Diff(want, ours(args...).comparable()); d != "" {
				t.Errorf("etcdutl (-), ours (+):\n%s", d)
			}
		})
	}
}

// TestSnapshotFiles compares what is said of snapshots of every version, in every
// format, with etcdutl's words, and checks that ours leaves the file alone.
func TestSnapshotFiles(t *testing.T) {
	for _, minor := range []string{"3.7", "3.6", "3.5", "3.4"} {
		t.Run(minor, func(t *testing.T) {
			path := snapshot(t, minor, history(t))
			before := must[[]byte](t)(os.ReadFile(path))
			for _, command := range []string{
				"snapshot status FILE", "hashkv FILE", "hashkv FILE --rev 12", "hashkv FILE --rev 10",
				"hashkv FILE --rev 9", "hashkv FILE --rev 1000", "hashkv FILE --rev -1",
			} {
				for _, format := range []string{"simple", "json", "fields", "table", "protobuf", "foo"} {
					args := func(file string) []string {
						return strings.Fields(strings.ReplaceAll(command+" -w "+format, "FILE", file))
					}
					want := etcdutl(t, args(copyFile(t, path))...).comparable()
					if d := cmp.Diff(want, ours(args(path)...).comparable()); d != "" {
						t.Errorf("%s -w %s: etcdutl (-), ours (+):\n%s", command, format, d)
					}
				}
			}
			if !bytes.Equal(before, must[[]byte](t)(os.ReadFile(path))) {
				t.Error("the snapshot file was changed")
			}
		})
	}
}

// TestDefragAndMigrate compares with etcdutl on copies of one directory.
func TestDefragAndMigrate(t *testing.T) {
	c := cluster.New(t, cluster.Options{Binary: cluster.Etcd(t, "3.7")})
	history(t)(context.Background(), c.Members[0].Client())
	c.Members[0].Stop()
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for _, dir := range []string{a, b} {
		if err := os.CopyFS(dir, os.DirFS(c.Members[0].Dir)); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{
		"defrag", "migrate --target-version 3.7", "migrate --target-version 3.8", "migrate --target-version 3.5",
		"migrate --target-version 3.6", "migrate --target-version 4.0", "migrate --target-version 3.8 --force", "migrate --target-version 3.7",
	} {
		want := etcdutl(t, append(strings.Fields(line), "--data-dir", a)...)
		got := ours(append(strings.Fields(line), "--data-dir", b)...)
		if want.Code != got.Code || want.Stdout != got.Stdout || lastLine(want) != lastLine(got) {
			t.Errorf("%s: etcdutl %+v, ours %+v", line, want, got)
		}
		one, two := content(t, a), content(t, b)
		if d := cmp.Diff(one, two); d != "" {
			t.Errorf("%s: the databases differ: etcdutl's (-), ours (+):\n%s", line, d)
		}
	}
}

// content is what etcdutl says of the database in a data directory, without its
// size: how many free pages are left over is a matter of taste.
func content(t *testing.T, dir string) []string {
	t.Helper()
	r := etcdutl(t, "snapshot", "status", filepath.Join(dir, "member/snap/db"))
	column := strings.Split(r.Stdout, ", ")
	if r.Code != 0 || len(column) != 5 {
		t.Fatalf("%+v", r)
	}
	return slices.Delete(column, 3, 4)
}

// lastLine is the error of a run, if there was one.
func lastLine(r result) string {
	lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
	if last := lines[len(lines)-1]; strings.HasPrefix(last, "Error") {
		return last
	}
	return ""
}
