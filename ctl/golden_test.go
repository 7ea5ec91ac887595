package ctl_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"theseus/ctl"
	"theseus/test/cluster"
)

// The scripts in testdata/golden are run twice, each time on a server of its own:
// by the real etcdctl 3.7 and by ours. Both must say what is recorded; -rewrite
// records what the real one says. testdata/README.md describes the scripts.
var serverCommand = flag.String("server", "", "what to run the scripts against instead of a real etcd 3.7, such as \"build/theseus serve\"")

// execEnv makes this test binary be our etcdctl.
const execEnv = "THESEUS_CTL_EXEC"

func TestMain(m *testing.M) {
	if os.Getenv(execEnv) != "" {
		os.Unsetenv(execEnv)
		os.Exit(ctl.Main(append([]string{"etcdctl"}, os.Args[1:]...), ctl.Options{
			Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		}))
	}
	os.Exit(m.Run())
}

func TestGolden(t *testing.T) {
	if os.Getenv("THESEUS_FULL") == "" {
		t.Skip("runs under `make interop-full`: it takes minutes")
	}
	real := cluster.Peer(t, "3.7", "etcdctl")
	scripts, err := filepath.Glob("testdata/golden/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			run := func(name string, command []string, env ...string) {
				t.Run(name, func(t *testing.T) {
					s := &session{t: t, command: command, env: env}
					defer s.close()
					datadriven.RunTest(t, path, s.directive)
				})
			}
			run("etcdctl", []string{real})
			if f := flag.Lookup("rewrite"); f == nil || f.Value.String() != "true" {
				run("ours", []string{os.Args[0]}, execEnv+"=1")
			}
		})
	}
}

// formats are all that -w and --hex can ask for.
var formats = [][]string{
	{"simple"}, {"simple", "--hex"}, {"fields"}, {"fields", "--hex"}, {"json"}, {"json", "--hex"},
	{"protobuf"}, {"protobuf", "--hex"}, {"table"}, {"table", "--hex"},
}

// session runs one script.
type session struct {
	t       *testing.T
	command []string // the etcdctl under test
	env     []string
	addr    string // of the server; empty: none
	tls     bool   // and the address begins with https
	dir     string
	procs   map[string]*background
	names   names
	vars    map[string]string
	servers []*exec.Cmd
}

type background struct {
	cmd         *exec.Cmd
	out, errOut *buffer
	stdin       io.WriteCloser
}

func (s *session) directive(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	s.t = t
	if s.dir == "" {
		s.dir = t.TempDir()
		s.procs = map[string]*background{}
		s.vars = map[string]string{"$": "$"}
	}
	loose := d.HasArg("loose")
	switch d.Cmd {
	case "server":
		return s.server(d)
	case "ctl":
		line, stdin := split(d.Input)
		out, errOut, code := s.ctl(d, line, stdin)
		return s.show(out, errOut, code, loose)
	case "each": // one command a line
		var b strings.Builder
		for _, line := range strings.Split(d.Input, "\n") {
			fmt.Fprintf(&b, "$ %s\n", line)
			out, errOut, code := s.ctl(d, line, "")
			b.WriteString(s.show(out, errOut, code, loose))
		}
		return b.String()
	case "formats":
		return s.formats(d, loose)
	case "start":
		return s.start(d)
	case "wait":
		return s.wait(d)
	case "stop":
		return s.stop(d, loose)
	case "capture":
		return s.capture(d)
	case "fill": // a command whose stdin is so many bytes
		n := 0
		d.ScanArgs(t, "bytes", &n)
		out, errOut, code := s.ctl(d, d.Input, strings.Repeat("x", n))
		return s.show(out, errOut, code, loose)
	case "until": // repeats a command until it says so many lines
		return s.until(d, loose)
	case "send":
		var name string
		d.ScanArgs(t, "name", &name)
		fmt.Fprintln(s.procs[name].stdin, d.Input)
		return ""
	case "digest": // for what is too long to be read
		out, _, code := s.ctl(d, d.Input, "")
		return fmt.Sprintf("sha256 %x exit %d\n", sha256.Sum256(out), code)
	}
	d.Fatalf(t, "unknown directive %q", d.Cmd)
	return ""
}

// formats runs one command in every format. {n} is the number of the run.
func (s *session) formats(d *datadriven.TestData, loose bool) string {
	var b strings.Builder
	command, stdin := split(d.Input)
	for n, f := range formats {
		line := strings.ReplaceAll(command, "{n}", fmt.Sprint(n))
		fmt.Fprintf(&b, "%s:\n", strings.Join(f, " "))
		out, errOut, code := s.ctl(d, strings.TrimSpace("-w "+strings.Join(f, " ")+" "+line), stdin)
		b.WriteString(s.show(out, errOut, code, loose))
	}
	return b.String()
}

// split tells the command line from the stdin below it, in which a line with
// nothing but a dot stands for an empty one.
func split(input string) (line, stdin string) {
	line, stdin, more := strings.Cut(input, "\n")
	if !more {
		return line, ""
	}
	lines := strings.Split(stdin, "\n")
	for i, l := range lines {
		if l == "." {
			lines[i] = ""
		}
	}
	return line, strings.Join(lines, "\n") + "\n"
}

// words splits a line of a script; quotes are Go's. $NAME is what was captured.
func (s *session) words(line string) []string {
	line = os.Expand(line, func(name string) string { return s.vars[name] })
	words, err := ctl.SplitWords(line)
	if err != nil {
		s.t.Fatalf("words of %q: %v", line, err)
	}
	return words
}

func (s *session) cmd(d *datadriven.TestData, line string) *exec.Cmd {
	args := append(append([]string{}, s.command[1:]...), s.words(line)...)
	cmd := exec.Command(s.command[0], args...)
	cmd.Dir = s.dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir}, s.env...)
	if s.addr != "" && !d.HasArg("noendpoints") {
		cmd.Env = append(cmd.Env, "ETCDCTL_ENDPOINTS="+s.addr)
	}
	for _, a := range d.CmdArgs {
		if a.Key == "env" {
			cmd.Env = append(cmd.Env, a.Vals...)
		}
	}
	return cmd
}

func (s *session) ctl(d *datadriven.TestData, line, stdin string) (out, errOut []byte, code int) {
	cmd := s.cmd(d, line)
	cmd.Stdin = strings.NewReader(stdin)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		s.t.Fatalf("run %v: %v", cmd.Args, err)
	}
	s.learn()
	return o.Bytes(), e.Bytes(), cmd.ProcessState.ExitCode()
}

// show is what a command said: stdout, stderr with "! " before each line, the exit code.
func (s *session) show(out, errOut []byte, code int, loose bool) string {
	var b strings.Builder
	text := s.names.normal(printable(s.names.binary(out)), s.dir, loose)
	b.WriteString(text)
	if text != "" && !strings.HasSuffix(text, "\n") {
		b.WriteString("<no newline>\n")
	}
	for _, l := range strings.Split(strings.TrimSuffix(s.names.normal(string(errOut), s.dir, loose), "\n"), "\n") {
		if len(errOut) > 0 && !noise(l) {
			fmt.Fprintf(&b, "! %s\n", logLine(l))
		}
	}
	if code != 0 {
		fmt.Fprintf(&b, "exit %d\n", code)
	}
	return b.String()
}

// start begins a command that goes on. Its stdin stays open after the input.
func (s *session) start(d *datadriven.TestData) string {
	var name string
	d.ScanArgs(s.t, "name", &name)
	line, stdin := split(d.Input)
	b := &background{cmd: s.cmd(d, line), out: newBuffer(), errOut: newBuffer()}
	b.cmd.Stdout, b.cmd.Stderr = b.out, b.errOut
	in, err := b.cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	b.stdin = in
	if err := b.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	if stdin != "" {
		fmt.Fprint(in, stdin)
	}
	s.procs[name] = b
	return ""
}

// wait waits until a command that goes on has written so many lines, or until the
// server has so many watchers.
func (s *session) wait(d *datadriven.TestData) string {
	n := 0
	if d.HasArg("watchers") {
		d.ScanArgs(s.t, "watchers", &n)
		s.waitWatchers(n)
		return ""
	}
	var name string
	d.ScanArgs(s.t, "name", &name)
	from, what := s.procs[name].out, "lines"
	if d.HasArg("stderr") {
		from = s.procs[name].errOut
	}
	if d.HasArg("bytes") {
		what = "bytes"
	}
	d.ScanArgs(s.t, what, &n)
	if !from.waitFor(n, what == "lines", time.Minute) {
		s.t.Fatalf("%s: %s: has written %q, not %d "+what+"; stderr %q", d.Pos, name, from.String(), n, s.procs[name].errOut.String())
	}
	return ""
}

func (s *session) until(d *datadriven.TestData, loose bool) string {
	n := 0
	d.ScanArgs(s.t, "lines", &n)
	line, stdin := split(d.Input)
	deadline := time.Now().Add(time.Minute)
	for {
		out, errOut, code := s.ctl(d, line, stdin)
		if bytes.Count(out, []byte("\n")) >= n || time.Now().After(deadline) {
			return s.show(out, errOut, code, loose)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// stop ends a command that goes on, by a signal or (signal=none) by itself, and
// shows all that it has said.
func (s *session) stop(d *datadriven.TestData, loose bool) string {
	var name, sig string
	d.ScanArgs(s.t, "name", &name)
	d.ScanArgs(s.t, "signal", &sig)
	b := s.procs[name]
	delete(s.procs, name)
	s.learn()
	if d.HasArg("eof") {
		b.stdin.Close()
	}
	switch sig {
	case "TERM":
		_ = b.cmd.Process.Signal(syscall.SIGTERM)
	case "INT":
		_ = b.cmd.Process.Signal(syscall.SIGINT)
	}
	_ = b.cmd.Wait()
	code := b.cmd.ProcessState.ExitCode()
	out := s.show(b.out.Bytes(), b.errOut.Bytes(), max(code, 0), loose)
	if ws, ok := b.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		out += "killed by " + ws.Signal().String() + "\n"
	}
	return out
}

// capture runs a command and keeps the first group of a pattern in what it says.
func (s *session) capture(d *datadriven.TestData) string {
	var name, word string
	d.ScanArgs(s.t, "name", &name)
	d.ScanArgs(s.t, "word", &word)
	out, errOut, code := s.ctl(d, d.Input, "")
	if code != 0 {
		s.t.Fatalf("%s: exit %d: %s", d.Pos, code, errOut)
	}
	var n int
	if _, err := fmt.Sscan(word, &n); err != nil {
		s.t.Fatal(err)
	}
	words := strings.FieldsFunc(string(out), func(r rune) bool { return r == ' ' || r == ',' || r == '\n' })
	s.vars[name] = words[n]
	return ""
}

// learn takes note of ids that differ between runs.
func (s *session) learn() {
	if s.addr == "" {
		return
	}
	c, err := s.client()
	if err != nil {
		return
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if resp, err := c.MemberList(ctx, clientv3.WithSerializable()); err == nil {
		for _, m := range resp.Members {
			s.names.member(m.ID)
		}
	}
	if resp, err := c.Leases(ctx); err == nil {
		for _, l := range resp.Leases {
			s.names.lease(uint64(l.ID))
		}
	}
}

func (s *session) client() (*clientv3.Client, error) {
	cfg := clientv3.Config{Endpoints: []string{s.addr}, Logger: zap.NewNop()}
	if s.tls {
		info := transport.TLSInfo{
			TrustedCAFile: filepath.Join(s.dir, "ca.pem"),
			CertFile:      filepath.Join(s.dir, "client.pem"), KeyFile: filepath.Join(s.dir, "client.key"),
		}
		var err error
		if cfg.TLS, err = info.ClientConfig(); err != nil {
			return nil, err
		}
	}
	return clientv3.New(cfg)
}

func (s *session) close() {
	for _, b := range s.procs {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
	}
	for _, c := range s.servers {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
}
