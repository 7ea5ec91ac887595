package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"theseus/test/cluster"
)

// specVariable makes this test binary a tool that does one step and ends.
const specVariable = "HOST_TEST_SPEC"

func TestMain(m *testing.M) {
	if dir := os.Getenv(specVariable); dir != "" {
		x, err := New(scriptSpec(dir))
		if err == nil {
			err = x.Start(context.Background())
		}
		fmt.Println("started", err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// script stands for a member where only the process matters: it ends on SIGTERM, writes
// that it did, and can tell a version.
const script = `#!/bin/sh
[ "$1" = --version ] && { echo "etcd Version: %s"; exit 0; }
trap 'echo ended; exit 0' TERM
echo "ready $NAME"
while :; do sleep 0.05; done
`

// scriptSpec is a member in dir, with its programs and its files there.
func scriptSpec(dir string) Spec {
	return Spec{Kind: "process", Command: []string{filepath.Join(dir, "old"), "--name", dir, "--data-dir=data"}, Env: []string{"NAME=s1"},
		Dir: dir, PIDFile: filepath.Join(dir, "s1.pid"), Log: filepath.Join(dir, "s1.log")}
}

// newScript makes the member of scriptSpec and promises that nothing of it outlives t.
func newScript(t *testing.T) (*process, string) {
	t.Helper()
	dir := t.TempDir()
	for name, version := range map[string]string{"old": "3.4.0", "new": "3.6.0"} {
		text := strings.Replace(script, "%s", version, 1)
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	x := open(t, scriptSpec(dir)).(*process)
	t.Cleanup(func() { endAll(t, dir) })
	return x, dir
}

// endAll ends the processes that have mark among their arguments.
func endAll(t *testing.T, mark string) {
	for _, pid := range pidsWith(mark) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Errorf("end pid %d: %v", pid, err)
		}
	}
}

func pidsWith(mark string) []int {
	var out []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		p, ok := lookUp(pid)
		if err != nil || !ok || p.launching() {
			continue
		}
		for _, a := range p.args() {
			if a == mark {
				out = append(out, pid)
			}
		}
	}
	return out
}

func open(t *testing.T, spec Spec) Executor {
	t.Helper()
	x, err := New(spec)
	must(t, err)
	t.Cleanup(func() { must(t, x.Close()) })
	return x
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func inspect(t *testing.T, x Executor) State {
	t.Helper()
	st, err := x.Inspect(t.Context())
	must(t, err)
	return st
}

// waitFor waits until what holds; the test's own deadline is the limit.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := until(ctx, func() (bool, error) { return holds(), nil }); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// TestProcessSteps goes once through every step, and does each of them twice.
func TestProcessSteps(t *testing.T) {
	x, dir := newScript(t)
	ctx := t.Context()
	old, next := Program{Binary: filepath.Join(dir, "old")}, Program{Binary: filepath.Join(dir, "new")}
	must(t, x.Stop(ctx))
	must(t, x.Start(ctx))
	first := inspect(t, x)
	must(t, x.Start(ctx))
	if again := inspect(t, x); again.ID != first.ID || !again.Running {
		t.Fatalf("a second Start made another start: %+v, then %+v", first, again)
	}
	want := State{Running: true, ID: first.ID, Program: old, Args: []string{"--name", dir, "--data-dir=data"},
		Env: map[string]string{"NAME": "s1"}, DataDir: filepath.Join(dir, "data"), Free: first.Free, Detail: first.Detail}
	if diff := cmp.Diff(want, first); diff != "" || first.Free == 0 {
		t.Fatalf("State (-want +got), free %d:\n%s", first.Free, diff)
	}
	if pids := pidsWith(dir); len(pids) != 1 {
		t.Fatalf("processes of the member: %v, want one", pids)
	}
	if err := x.Swap(ctx, next); !errors.Is(err, ErrStillRunning) {
		t.Fatalf("Swap of a running member: %v, want ErrStillRunning", err)
	}
	waitFor(t, "the member's first line", func() bool { l, _ := x.Logs(ctx, 9); return len(l) == 1 && l[0] == "ready s1" })
	must(t, x.Stop(ctx))
	must(t, x.Stop(ctx))
	if lines, err := x.Logs(ctx, 1); err != nil || len(lines) != 1 || lines[0] != "ended" {
		t.Fatalf("Logs after Stop: %q, %v: want the words of an orderly end", lines, err)
	}
	for _, p := range []Program{next, next, old, next} {
		must(t, x.Swap(ctx, p))
		if st := inspect(t, open(t, x.spec)); st.Program != p || st.Running {
			t.Fatalf("after Swap to %s: %+v", p, st)
		}
	}
	must(t, x.Start(ctx))
	if st := inspect(t, x); st.Program != next || st.ID == first.ID {
		t.Fatalf("after Swap and Start: %+v", st)
	}
	must(t, x.Finish(ctx))
	must(t, x.Finish(ctx))
	if st := inspect(t, x); st.Program != next || !st.Running {
		t.Fatalf("after Finish: %+v", st)
	}
	must(t, x.Stop(ctx))
}

// TestProcessToolKilledWhileStarting kills the tool when its child has been forked and
// has not written its pid yet. The next tool waits for that child, and starts no other.
func TestProcessToolKilledWhileStarting(t *testing.T) {
	for _, at := range []string{"1", "2"} { // the start record, the pid file
		t.Run("before mv "+at, func(t *testing.T) {
			x, dir := newScript(t)
			stub := t.TempDir()
			text := fmt.Sprintf("#!/bin/sh\necho >>%[1]s/calls\n[ $(wc -l <%[1]s/calls) = %[2]s ] && while ! [ -e %[1]s/go ]; do :; done\nexec /bin/mv \"$@\"\n", stub, at)
			must(t, os.WriteFile(filepath.Join(stub, "mv"), []byte(text), 0o755))
			tool := exec.Command(os.Args[0])
			tool.Env = append(os.Environ(), specVariable+"="+dir, "PATH="+stub+":"+os.Getenv("PATH"))
			must(t, tool.Start())
			waitFor(t, "the child at mv "+at, func() bool {
				raw, _ := os.ReadFile(filepath.Join(stub, "calls"))
				return strings.Count(string(raw), "\n") == int(at[0]-'0')
			})
			must(t, tool.Process.Kill())
			_ = tool.Wait()
			short, cancel := context.WithTimeout(t.Context(), 10*lookEvery)
			defer cancel()
			if err := x.Start(short); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("Start beside a child that is about to be the member: %v, want to wait", err)
			}
			must(t, os.WriteFile(filepath.Join(stub, "go"), nil, 0o600))
			must(t, x.Start(t.Context()))
			if pids := pidsWith(dir); len(pids) != 1 {
				t.Fatalf("processes of the member: %v, want one", pids)
			}
			raw, err := os.ReadFile(x.spec.PIDFile)
			must(t, err)
			if got := "pid " + strings.TrimSpace(string(raw)); got != inspect(t, x).Detail {
				t.Fatalf("pid file says %s, the member is %s", got, inspect(t, x).Detail)
			}
			must(t, x.Stop(t.Context()))
		})
	}
}

// TestProcessPIDs is about pid files that are not, or no longer, about the member.
func TestProcessPIDs(t *testing.T) {
	other := func(t *testing.T, argv ...string) int {
		cmd := exec.Command(argv[0], argv[1:]...)
		must(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd.Process.Pid
	}
	t.Run("a pid that another process has now", func(t *testing.T) {
		x, _ := newScript(t)
		pid := other(t, "sleep", "600")
		must(t, os.WriteFile(x.spec.PIDFile, []byte(strconv.Itoa(pid)), 0o600))
		boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		must(t, err)
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		must(t, err)
		fields := strings.Fields(string(stat))
		fields[21] += "0" // another start time
		must(t, os.WriteFile(x.spec.PIDFile+".start", append(boot, strings.Join(fields, " ")...), 0o600))
		must(t, x.Stop(t.Context()))
		if st := inspect(t, x); st.Running {
			t.Fatalf("took another process for the member: %+v", st)
		}
		if p, ok := lookUp(pid); !ok || !p.alive() {
			t.Fatal("Stop ended a process that is not the member")
		}
	})
	t.Run("a member that was started by hand", func(t *testing.T) {
		x, dir := newScript(t)
		cmd := exec.Command(x.spec.Command[0], x.spec.Command[1:]...)
		cmd.Dir = dir
		must(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		waitFor(t, "its program", func() bool { return len(pidsWith(dir)) == 1 })
		if err := x.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "runs with the same arguments already") {
			t.Fatalf("Start beside a member that nothing knows of: %v", err)
		}
		must(t, os.WriteFile(x.spec.PIDFile, []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o600))
		if st := inspect(t, x); !st.Running {
			t.Fatalf("did not find the member by its pid file: %+v", st)
		}
		must(t, x.Start(t.Context()))
		if pids := pidsWith(dir); len(pids) != 1 {
			t.Fatalf("processes of the member: %v, want one", pids)
		}
	})
	t.Run("a process that is not as the inventory has it", func(t *testing.T) {
		x, _ := newScript(t)
		pid := other(t, "sleep", "600")
		must(t, os.WriteFile(x.spec.PIDFile, []byte(strconv.Itoa(pid)), 0o600))
		if err := x.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "not with the arguments of host.command") {
			t.Fatalf("Start beside it: %v", err)
		}
		old := time.Now().Add(-time.Hour) // the file is older than the process: the pid was given again
		must(t, os.Chtimes(x.spec.PIDFile, old, old))
		if st := inspect(t, x); st.Running {
			t.Fatalf("took another process for the member: %+v", st)
		}
	})
	t.Run("words", func(t *testing.T) {
		x, _ := newScript(t)
		must(t, os.WriteFile(x.spec.PIDFile, []byte("none\n"), 0o600))
		if _, err := x.Inspect(t.Context()); err == nil || !strings.Contains(err.Error(), `"none" is not a pid`) {
			t.Fatalf("Inspect: %v", err)
		}
	})
}

// TestProcessThatDoesNotStop is asked to end and does not: it is never killed.
func TestProcessThatDoesNotStop(t *testing.T) {
	x, dir := newScript(t)
	deaf := strings.Replace(script, "trap 'echo ended; exit 0' TERM", "trap '' TERM", 1)
	must(t, os.WriteFile(filepath.Join(dir, "old"), []byte(deaf), 0o755))
	must(t, x.Start(t.Context()))
	waitFor(t, "the trap", func() bool { l, _ := x.Logs(t.Context(), 1); return len(l) == 1 })
	short, cancel := context.WithTimeout(t.Context(), 10*lookEvery)
	defer cancel()
	if err := x.Stop(short); !errors.Is(err, ErrStillRunning) {
		t.Fatalf("Stop: %v, want ErrStillRunning", err)
	}
	if st := inspect(t, x); !st.Running {
		t.Fatalf("the member was killed: %+v", st)
	}
}

// TestProcessRefusals are the programs that could not be started.
func TestProcessRefusals(t *testing.T) {
	x, dir := newScript(t)
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(text), mode))
		return path
	}
	for _, c := range []struct {
		p    Program
		want string
	}{
		{Program{Image: "etcd:3.4"}, "name a binary, not an image"},
		{Program{Binary: "etcd"}, "write its absolute path"},
		{Program{Binary: filepath.Join(dir, "none")}, "no such file or directory: copy it to this machine first"},
		{Program{Binary: dir}, "is not a file"},
		{Program{Binary: file("plain", script, 0o644)}, "run chmod +x"},
		{Program{Binary: file("mute", "#!/bin/sh\n", 0o755)}, `it printed "nothing" and no "etcd Version:"`},
		{Program{Binary: file("alien", "\x7fELF not for this machine", 0o755)}, "is it built for this machine?"},
		{Program{Binary: file("sick", "#!/bin/sh\necho no such library; exit 3\n", 0o755)}, "exit status 3 no such library"},
	} {
		if _, err := x.Stage(t.Context(), c.p); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Stage %s: %v, want %q", c.p, err, c.want)
		}
		if err := x.Swap(t.Context(), c.p); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Swap to %s: %v, want %q", c.p, err, c.want)
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, "old"), []byte("#!/bin/sh\necho bad flag; exit 2\n"), 0o755))
	if err := x.Start(t.Context()); err == nil {
		// It may have been seen as a running program before it ended.
		waitFor(t, "its end", func() bool { return !inspect(t, x).Running })
	}
	if st := inspect(t, x); st.Detail != "not running, its last line: bad flag" {
		t.Errorf("Detail: %q", st.Detail)
	}
}

// TestProcessRealMember swaps a real member there and back with its data. From 3.4 there
// is no way back once ours has lifted the version of the cluster, which it does as soon as
// it may; that is the runner's to know.
func TestProcessRealMember(t *testing.T) {
	old, newest, ours := cluster.Peer(t, "3.4", "etcd"), cluster.Peer(t, "3.7", "etcd"), cluster.Theseus(t).Path
	t.Run("from 3.4", func(t *testing.T) { swapReal(t, old, ours) })
	t.Run("from 3.7 and back", func(t *testing.T) { swapReal(t, newest, ours, newest, ours) })
}

func swapReal(t *testing.T, programs ...string) {
	dir := t.TempDir()
	client, peer := freeURL(t), freeURL(t)
	x := open(t, Spec{Kind: "process", Dir: dir, PIDFile: filepath.Join(dir, "m.pid"), Command: []string{programs[0], "--name", "m",
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "m=" + peer}})
	ctx := t.Context()
	t.Cleanup(func() {
		if lines, _ := x.Logs(context.Background(), 10); t.Failed() {
			t.Log(strings.Join(lines, "\n"))
		}
		must(t, x.Stop(context.Background()))
	})
	for i, path := range programs {
		p := Program{Binary: path}
		version, err := x.Stage(ctx, p)
		must(t, err)
		t.Log(version)
		must(t, x.Stop(ctx))
		must(t, x.Swap(ctx, p))
		must(t, x.Start(ctx))
		if st := inspect(t, x); !st.Running || st.Program != p || st.Args[0] != "--name" || st.DataDir != filepath.Join(dir, "m.etcd") {
			t.Fatalf("State: %+v", st)
		}
		putNth(t, client, i)
	}
	must(t, x.Finish(ctx))
}

func freeURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	return "http://" + l.Addr().String()
}

// putNth writes key n and reads all before it.
func putNth(t *testing.T, url string, n int) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, Logger: zap.NewNop()})
	must(t, err)
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = c.Put(ctx, "key"+strconv.Itoa(n), "v")
	must(t, err)
	got, err := c.Get(ctx, "key", clientv3.WithPrefix())
	must(t, err)
	if int(got.Count) != n+1 {
		t.Fatalf("%d keys after %d puts", got.Count, n+1)
	}
}
