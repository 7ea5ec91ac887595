package ctl

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// run runs one command line in this process, without a server.
func run(t *testing.T, stdin string, offline func([]string) int, args ...string) (out, errOut string, code int) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, envPrefix) {
			t.Setenv(name, "")
			os.Unsetenv(name)
		}
	}
	var o, e bytes.Buffer
	code = Main(args, Options{Stdin: strings.NewReader(stdin), Stdout: &o, Stderr: &e, Offline: offline})
	return o.String(), e.String(), code
}

// TestOwnName checks what is different under our own name: the second line of an
// error and the exit code.
func TestOwnName(t *testing.T) {
	for _, c := range []struct {
		line, want string
		code       int
	}{
		{"get", "Error: get command needs one argument as key and an optional argument as range_end\n" +
			"`theseus ctl get --help` has the arguments, the flags and examples.\n", 2},
		{"get k --bogus", "Error: unknown flag: --bogus\n`theseus ctl get --help` has the arguments, the flags and examples.\n", 2},
		{"nosuch", "Error: unknown command \"nosuch\" for \"theseus ctl\"\n`theseus ctl --help` has the arguments, the flags and examples.\n", 2},
		{"get k -w nosuch", "Error: unsupported output format\nThe formats are fields, json, protobuf, simple and table.\n", 2},
		{"get k --order x", "Error: bad sort order x\n", 2},
		{"compaction x", "Error: strconv.ParseInt: parsing \"x\": invalid syntax\n", 1},
		{"get k --cacert nosuch", "Error: open nosuch: no such file or directory\nCheck the path.\n", 2},
		{"member list --consistency x", "Error: unknown consistency flag \"x\"\n", 2},
		{"get k --endpoints=", "Error: etcdclient: no available endpoints\nCheck --endpoints, and --cacert, --cert and --key for https.\n", 1},
		{"get k --endpoints=127.0.0.1:1 --command-timeout=300ms", "Error: context deadline exceeded\n" +
			"A server did not answer (dial tcp 127.0.0.1:1: connect: connection refused): is it running there, and is it http or https? Say where with --endpoints.\n", 1},
		{"endpoint status --endpoints=127.0.0.1:1 --command-timeout=300ms", "Failed to get the status of endpoint 127.0.0.1:1 (context deadline exceeded)\n" +
			"A server did not answer (dial tcp 127.0.0.1:1: connect: connection refused): is it running there, and is it http or https? Say where with --endpoints.\n", 1},
	} {
		out, errOut, code := run(t, "", nil, append([]string{"theseus ctl"}, strings.Fields(c.line)...)...)
		if errOut != c.want || code != c.code || out != "" {
			t.Errorf("theseus ctl %s: exit %d, %q, stdout %q\nwant exit %d, %q", c.line, code, errOut, out, c.code, c.want)
		}
	}
}

func TestGivenTwice(t *testing.T) {
	t.Setenv("ETCDCTL_ENDPOINTS", "127.0.0.1:1")
	var e bytes.Buffer
	code := Main([]string{"theseus ctl", "get", "k", "--endpoints", "127.0.0.1:2"}, Options{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &e})
	want := "Error: --endpoints, ETCDCTL_ENDPOINTS: given both as a flag and in the environment\nLeave one of them out.\n"
	if e.String() != want || code != 2 {
		t.Errorf("exit %d, %q, want exit 2, %q", code, e.String(), want)
	}
}

func TestVersion(t *testing.T) {
	out, _, code := run(t, "", nil, "/usr/bin/etcdctl", "version")
	if want := "etcdctl version: 3.7.3\nAPI version: 3.7\n"; out != want || code != 0 {
		t.Errorf("exit %d, %q, want %q", code, out, want)
	}
}

// TestOffline checks that what etcdctl did to files until 3.5 is handed on, without
// the flags that are about servers.
func TestOffline(t *testing.T) {
	var got []string
	offline := func(args []string) int {
		got = args
		return 3
	}
	_, errOut, code := run(t, "", offline, "etcdctl", "--endpoints", "x:1", "snapshot", "status", "--hex", "file", "-w", "json", "--debug=false")
	if diff := cmp.Diff([]string{"snapshot", "status", "file", "-w", "json"}, got); diff != "" || code != 3 {
		t.Errorf("exit %d; arguments (-want +got):\n%s", code, diff)
	}
	if want := "Deprecated: Use `etcdutl snapshot status` instead.\n"; errOut != want {
		t.Errorf("stderr %q, want %q", errOut, want)
	}
	out, _, code := run(t, "", nil, "etcdctl", "snapshot", "status", "file")
	if !strings.HasPrefix(out, "Manages etcd node snapshots") || code != 0 {
		t.Errorf("without an offline program: exit %d, %q", code, out)
	}
}

// TestManual checks that there is a page for every command and none for others,
// and that the command lines in the examples can be read.
func TestManual(t *testing.T) {
	root := newApp("theseus ctl", Options{Stdin: strings.NewReader("")}).root()
	left := map[string]bool{}
	for path := range manual {
		left[path] = true
	}
	visit(root, func(cmd *cobra.Command) {
		path := strings.TrimSpace(strings.TrimPrefix(cmd.CommandPath(), "theseus ctl"))
		if _, ok := manual[path]; !ok && path != "" && path != "completion" {
			t.Errorf("no manual for %q", path)
		}
		delete(left, path)
		if !cmd.HasSubCommands() && cmd.Example == "" && path != "completion" {
			t.Errorf("%q has no example", path)
		}
		for _, line := range strings.Split(cmd.Example, "\n") {
			if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "theseus ctl "); ok {
				checkExample(t, path, rest)
			}
		}
	})
	for path := range left {
		t.Errorf("a manual for %q, which is no command", path)
	}
}

func checkExample(t *testing.T, path, line string) {
	t.Helper()
	if strings.ContainsAny(line, "$<") {
		return // for a shell to read first
	}
	words, err := splitWords(line)
	if err != nil {
		t.Fatal(err)
	}
	root := newApp("theseus ctl", Options{Stdin: strings.NewReader("")}).root()
	cmd, args, err := root.Find(words)
	if err != nil {
		t.Errorf("%s: example %q: %v", path, line, err)
		return
	}
	if err := cmd.ParseFlags(args); err != nil {
		t.Errorf("%s: example %q: %v", path, line, err)
	}
}

func TestTrailer(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 1000)
	sum := sha256.Sum256(data)
	for _, size := range []int{1, 31, 32, 33, 4096, 20000} {
		whole, broken := &trailer{hash: sha256.New()}, &trailer{hash: sha256.New()}
		stream := append(bytes.Clone(data), sum[:]...)
		damaged := bytes.Clone(stream)
		damaged[len(damaged)/2] ^= 1
		for len(stream) > 0 {
			n := min(size, len(stream))
			whole.Write(stream[:n])   //nolint:errcheck // never fails
			broken.Write(damaged[:n]) //nolint:errcheck // never fails
			stream, damaged = stream[n:], damaged[n:]
		}
		if !whole.ok() || broken.ok() {
			t.Errorf("in pieces of %d: whole %v, broken %v", size, whole.ok(), broken.ok())
		}
	}
}

// TestSnapshotKeepsOld checks that a failed save leaves what was there.
func TestSnapshotKeepsOld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "backup.db")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, code := run(t, "", nil, "theseus ctl", "--endpoints=127.0.0.1:1", "--command-timeout=200ms", "snapshot", "save", path)
	b, err := os.ReadFile(path)
	if code != 1 || err != nil || string(b) != "old" {
		t.Errorf("exit %d, %q, %v", code, b, err)
	}
	if left, _ := filepath.Glob(path + ".part"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func FuzzSplitWords(f *testing.F) {
	for _, s := range []string{`put a "x y"`, `put 'a b' c`, `put "a b`, `"\z"`, `''`, "\x00\xff", `a"b" 'c`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		words, err := splitWords(s)
		if err == nil && len(words) > 0 && strings.TrimSpace(s) == "" {
			t.Errorf("words %q from nothing", words)
		}
	})
}

func FuzzCompare(f *testing.F) {
	for _, s := range []string{`mod("x") = "1"`, `val("x") > "y"`, `lease("k") = "1f"`, `mod("x") == "1"`, `ver(`, `c("\xff") < "-1"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseCompare(s)
		if err == nil && len(c.KeyBytes()) == 0 && !strings.Contains(s, `""`) && !strings.Contains(s, "``") {
			t.Errorf("%q compares no key", s)
		}
	})
}
