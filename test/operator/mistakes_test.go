package operator

import (
	"bytes"
	"context"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"theseus/test/cluster"
)

// run starts the server with flags that must end it by themselves, and returns
// what it printed that is no log line, and its exit status.
func run(t *testing.T, args ...string) (string, int) {
	t.Helper()
	b := cluster.Theseus(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.Path, append([]string{"serve"}, args...)...)
	cmd.Dir = t.TempDir()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("the server went on with %q:\n%s", args, out.String())
	}
	code := 0
	if e, ok := err.(*exec.ExitError); ok {
		code = e.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		if !strings.HasPrefix(line, "{") {
			said = append(said, line)
		}
	}
	return strings.Join(said, "\n"), code
}

// listing is every file below a folder with its size, to see that nothing changed.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			all = append(all, path+" "+string(rune(len(b)))+string(b))
			return nil
		}
		all = append(all, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dir := filepath.Join(t.TempDir(), "d")
	u := "http://" + l.Addr().String()
	said, code := run(t, "--data-dir", dir, "--listen-peer-urls", u, "--initial-advertise-peer-urls", u, "--initial-cluster", "default="+u)
	wants(t, said, code, 1, "address already in use", "another program holds the port", "--listen-peer-urls")
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("the data directory was made although the port is taken")
	}
}

// wants checks one line with everything it must say.
func wants(t *testing.T, said string, code, wantCode int, parts ...string) {
	t.Helper()
	if code != wantCode {
		t.Errorf("exit status %d, want %d", code, wantCode)
	}
	if n := strings.Count(said, "\n"); n > 1 {
		t.Errorf("%d lines, want one:\n%s", n+1, said)
	}
	for _, p := range parts {
		if !strings.Contains(said, p) {
			t.Errorf("does not say %q:\n%s", p, said)
		}
	}
}

func TestUnknownFlag(t *testing.T) {
	said, code := run(t, "--data-dri", "x")
	wants(t, said, code, 2, "flag provided but not defined: -data-dri", "serve --help")
}

// quiet are addresses of the test's own, so that tests can run side by side.
func quiet(dir string) []string {
	return []string{"--data-dir", dir,
		"--listen-client-urls", "http://127.0.0.1:0", "--advertise-client-urls", "http://127.0.0.1:1",
		"--listen-peer-urls", "http://127.0.0.1:0", "--initial-advertise-peer-urls", "http://localhost:2380"}
}

func TestUnwritableDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	said, code := run(t, quiet(filepath.Join(file, "data"))...)
	wants(t, said, code, 1, "not a directory", "--data-dir")
}

func TestForeignDirectory(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"member/wal/notes.txt": "mine", "member/snap/db": "this is no database, only a long enough text to look at"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := listing(t, dir)
	said, code := run(t, quiet(dir)...)
	wants(t, said, code, 1, filepath.Join(dir, "member"))
	if after := listing(t, dir); after != before {
		t.Errorf("the directory changed:\n%s\nwas\n%s", after, before)
	}
}

func TestSecondServerOnOneDirectory(t *testing.T) {
	c := cluster.New(t, cluster.Options{})
	said, code := run(t, quiet(c.Members[0].Dir)...)
	wants(t, said, code, 1, "another", c.Members[0].Dir)
	c.Members[0].WaitHealthy()
}

// TestDataOfOtherMember: a WAL of one member with the db of another is refused.
func TestDataOfOtherMember(t *testing.T) {
	a, b := cluster.New(t, cluster.Options{}), cluster.New(t, cluster.Options{})
	for i, c := range []*cluster.Cluster{a, b} {
		for range 3 + 40*i {
			if _, err := c.Client().Put(context.Background(), "k", "v"); err != nil {
				t.Fatal(err)
			}
		}
		c.Members[0].Stop()
	}
	db := filepath.Join("member", "snap", "db")
	ahead, err := os.ReadFile(filepath.Join(b.Members[0].Dir, db))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a.Members[0].Dir, db), ahead, 0o600); err != nil {
		t.Fatal(err)
	}
	before := listing(t, a.Members[0].Dir)
	said, code := run(t, quiet(a.Members[0].Dir)...)
	wants(t, said, code, 1, "index", a.Members[0].Dir)
	if after := listing(t, a.Members[0].Dir); after != before {
		t.Error("the directory changed")
	}
}
