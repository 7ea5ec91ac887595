package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Binary is a server program that a member can run.
type Binary struct {
	Name string   // "theseus", or etcd's minor version such as "3.5"
	Path string   // the program
	Args []string // what comes before etcd's flags, such as "serve"
}

// Ours reports whether the program is Theseus.
func (b Binary) Ours() bool { return b.Name == "theseus" }

// Minor returns the minor version of a real etcd (5 for "3.5"), or the newest
// that Theseus speaks.
func (b Binary) Minor() int {
	if b.Ours() {
		return 7
	}
	return int(b.Name[2] - '0')
}

// Root returns the top folder of the repository.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

var buildOnce = sync.OnceValues(func() (string, error) {
	out := filepath.Join(Root(), "build", "theseus")
	cmd := exec.Command("go", "build", "-o", out, "./cmd/theseus")
	cmd.Dir = Root()
	text, err := cmd.CombinedOutput()
	if err != nil {
		return strings.TrimSpace(string(text)), err
	}
	return out, nil
})

// Theseus builds the program of this tree once and returns it, or takes the one
// that THESEUS_BINARY names.
func Theseus(t testing.TB) Binary {
	t.Helper()
	if path := os.Getenv("THESEUS_BINARY"); path != "" {
		return Binary{Name: "theseus", Path: path, Args: []string{"serve"}}
	}
	out, err := buildOnce()
	if err != nil {
		t.Fatalf("build theseus: %v\n%s", err, out)
	}
	return Binary{Name: "theseus", Path: out, Args: []string{"serve"}}
}

// Etcd returns the real etcd of a minor version such as "3.5". Where it was
// not built the test is skipped, or fails when THESEUS_REQUIRE_PEERS is set,
// as it is in CI.
func Etcd(t testing.TB, minor string) Binary {
	t.Helper()
	return Binary{Name: minor, Path: Peer(t, minor, "etcd")}
}

// Peer returns the path of one program (etcd, etcdctl, etcdutl) of a real etcd.
func Peer(t testing.TB, minor, program string) string {
	t.Helper()
	dir := os.Getenv("THESEUS_PEERS")
	if dir == "" {
		dir = filepath.Join(Root(), "build", "peers")
	}
	path, err := filepath.Abs(filepath.Join(dir, minor, program))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err == nil {
		return path
	}
	if os.Getenv("THESEUS_REQUIRE_PEERS") != "" {
		t.Fatalf("real %s %s is missing: run `make peers`", program, minor)
	}
	t.Skipf("real %s %s is missing: run `make peers` to test against it", program, minor)
	return ""
}
