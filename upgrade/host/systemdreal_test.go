package host

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"theseus/test/cluster"
)

// The machine that these tests boot is Debian's with systemd and sshd and nothing else.
// Its root is made once, with THESEUS_FULL=1 and debootstrap, and kept under build/.
const (
	machineImage = "theseus-test-systemd:bookworm"
	machineRoot  = "build/systemd/rootfs.tar"
)

// repository returns a path below the repository's root.
func repository(t *testing.T, name string) string {
	t.Helper()
	p, err := filepath.Abs(filepath.Join("..", "..", name))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// command runs a command of the machine that the test is on.
func command(t *testing.T, limit time.Duration, argv ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}

func mustCommand(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := command(t, time.Minute, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// machineReady makes sure that the image is there, or says why the test cannot run.
func machineReady(t *testing.T) {
	t.Helper()
	if _, err := command(t, 10*time.Second, "docker", "version"); err != nil {
		t.Skip("no docker engine on this machine: systemd is not tried here")
	}
	if _, err := command(t, 10*time.Second, "docker", "image", "inspect", machineImage); err == nil {
		return
	}
	tar := repository(t, machineRoot)
	if _, err := os.Stat(tar); err != nil {
		if os.Getenv("THESEUS_FULL") != "1" {
			t.Skipf("no %s: run with THESEUS_FULL=1 and debootstrap installed to make it; systemd is not tried here", machineRoot)
		}
		dir, unfinished := t.TempDir(), tar+".new"
		if err := os.MkdirAll(filepath.Dir(tar), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, argv := range [][]string{
			{"debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv,dbus,openssh-server", "bookworm", dir, "http://deb.debian.org/debian"},
			{"tar", "-C", dir, "-cf", unfinished, "."},
			{"mv", unfinished, tar},
		} {
			if _, err := command(t, 8*time.Minute, argv...); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := command(t, 2*time.Minute, "docker", "import", tar, machineImage); err != nil {
		t.Fatal(err)
	}
}

// machine is a container in which systemd is process 1.
type machine struct {
	name   string
	client string // URL of the member's client port, on loopback
	ssh    string // root@127.0.0.1:port
	key    string // private key that its sshd takes
}

// bootMachine boots one, with real etcd in /opt/etcd, ours in /opt/theseus and dir in /test.
func bootMachine(t *testing.T, dir string) *machine {
	t.Helper()
	machineReady(t)
	m := &machine{name: fmt.Sprintf("theseus-test-systemd-%d", os.Getpid()), key: filepath.Join(dir, "id")}
	public, home := newKey(t, m.key), filepath.Join(dir, "home")
	if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("docker", "rm", "-fv", m.name).Run() })
	mustCommand(t, "docker", "run", "-d", "--name", m.name, "--security-opt", "seccomp=unconfined", "--cgroupns=host",
		"-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp", "-e", "container=docker",
		"-v", filepath.Dir(cluster.Peer(t, "3.4", "etcd"))+":/opt/etcd:ro", "-v", cluster.Theseus(t).Path+":/opt/theseus/theseus:ro", "-v", dir+":/test",
		"-p", "127.0.0.1::22", "-p", "127.0.0.1::2379", machineImage, "/sbin/init")
	m.client = "http://" + strings.Fields(mustCommand(t, "docker", "port", m.name, "2379"))[0]
	_, port, err := net.SplitHostPort(strings.Fields(mustCommand(t, "docker", "port", m.name, "22"))[0])
	if err != nil {
		t.Fatal(err)
	}
	m.ssh = "root@127.0.0.1:" + port
	await(t, "the machine to be up", func() error {
		_, err := command(t, 10*time.Second, "docker", "exec", m.name, "systemctl", "is-active", "multi-user.target", "ssh.service")
		return err
	})
	m.exec(t, fmt.Sprintf("mkdir -p -m 700 /root/.ssh && echo '%s' >/root/.ssh/authorized_keys", public))
	t.Setenv("HOME", home)
	t.Setenv("SSH_AUTH_SOCK", "")
	hostKey := m.exec(t, "cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub")
	known, _, _, _, err := ssh.ParseAuthorizedKey([]byte(hostKey))
	if err != nil {
		t.Fatal(err)
	}
	writeTest(t, filepath.Join(home, ".ssh", "known_hosts"), knownhosts.Line([]string{"[127.0.0.1]:" + port}, known)+"\n")
	return m
}

// exec runs a line of shell in the machine.
func (m *machine) exec(t *testing.T, line string) string {
	t.Helper()
	return mustCommand(t, "docker", "exec", m.name, "sh", "-c", line)
}

func writeTest(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// newKey writes a private key and returns the line of its public one.
func newKey(t *testing.T, file string) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	writeTest(t, file, string(pem.EncodeToMemory(block)))
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// await asks every so often until try has no error.
func await(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	var last error
	if err := until(ctx, func() (bool, error) { last = try(); return last == nil, nil }); err != nil {
		t.Fatalf("waited for %s: %v", what, last)
	}
}

// ask posts to a member's JSON gateway.
func ask(url string, body map[string]string) (string, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	client := &http.Client{Timeout: 5 * time.Second}
	resp, err := client.Post(url, "application/json", strings.NewReader(string(raw)))
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	got, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(string(got))
	}
	return string(got), err
}

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// holds waits until the member serves, and checks that it has the key.
func (m *machine) holds(t *testing.T, key, value string) {
	t.Helper()
	await(t, "the member to have "+key, func() error {
		got, err := ask(m.client+"/v3/kv/range", map[string]string{"key": encode(key)})
		if err == nil && !strings.Contains(got, encode(value)) {
			err = errors.New(got)
		}
		return err
	})
}

// memberUnit is written as people write them: variables, a file, a line that goes on.
const memberUnit = `# the member of a test
[Unit]
Description=etcd
[Service]
Type=notify
Environment="ETCD_NAME=one" "GREETING=with a blank"
EnvironmentFile=-/etc/default/etcd
ExecStart=/opt/etcd/etcd --data-dir=${DATA} \
    --listen-client-urls=http://0.0.0.0:2379 \
    # a comment in between
    --advertise-client-urls=http://%H:2379 $MORE "--logger" 'zap'
Restart=always
RestartSec=100ms
TimeoutStopSec=1s
[Install]
WantedBy=multi-user.target
`

// crashing tells its version, and ends at once when it is to be a member.
const crashing = "#!/bin/sh\n[ \"$1\" = --version ] && { echo 'etcd Version: 3.6.0'; exit 0; }\necho 'no member today' >&2\nexit 3\n"

func TestSystemd(t *testing.T) {
	dir := t.TempDir()
	m := bootMachine(t, dir)
	for _, way := range []string{"here", "ssh"} {
		t.Run(way, func(t *testing.T) {
			if way == "here" && os.Getenv("THESEUS_FULL") != "1" {
				t.Skip("the same without ssh runs with THESEUS_FULL=1")
			}
			unit := "etcd-" + way
			m.exec(t, "cat >/etc/default/etcd <<'E'\n# data\nDATA='/var/lib/"+unit+"'\nMORE=--snapshot-count=5000 --quota-backend-bytes=100000000\nE\n"+
				"cat >/etc/systemd/system/"+unit+".service <<'E'\n"+strings.ReplaceAll(memberUnit, "%H", "127.0.0.1")+"E\n"+
				"printf '%s' '"+strings.ReplaceAll(crashing, "'", `'\''`)+"' >/usr/local/bin/crashing; chmod +x /usr/local/bin/crashing\n"+
				"systemctl daemon-reload && systemctl start "+unit)
			spec := Spec{Kind: "systemd", Unit: unit}
			if way == "ssh" {
				spec.SSH, spec.SSHKey = m.ssh, m.key
			}
			x, err := New(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = x.Close() }()
			if way == "here" {
				x.(*systemd).shell.prefix = []string{"docker", "exec", "-i", m.name}
			}
			if way == "ssh" {
				moveUnit(t, m, x, unit)
				if os.Getenv("THESEUS_FULL") != "1" {
					return
				}
				stubbornUnit(t, m, spec)
				overruledUnit(t, m, spec)
				m.exec(t, "systemctl stop "+unit)
				wrappedUnit(t, m, spec)
				return
			}
			if _, err := ask(m.client+"/v3/kv/put", map[string]string{"key": encode("way"), "value": encode(unit)}); err != nil {
				t.Fatal(err)
			}
			toTheseus(t, m, x, unit, wantArgs(unit))
			m.exec(t, "systemctl stop "+unit)
		})
	}
}

// do fails the test on an error of one of the executor's methods.
func do(t *testing.T, what string, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	defer func(from time.Time) { t.Logf("%s took %v", what, time.Since(from).Round(time.Millisecond)) }(time.Now())
	if err := f(ctx); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// wantArgs are the arguments of memberUnit.
func wantArgs(unit string) string {
	return "--data-dir=/var/lib/" + unit + " --listen-client-urls=http://0.0.0.0:2379 --advertise-client-urls=http://127.0.0.1:2379 --snapshot-count=5000 --quota-backend-bytes=100000000 --logger zap"
}

// stubbornUnit is a member that ignores SIGTERM under a supervisor with little
// patience: it is waited for, and never killed.
func stubbornUnit(t *testing.T, m *machine, spec Spec) {
	t.Helper()
	spec.Unit = "stubborn"
	m.exec(t, "printf '#!/bin/sh\\ntrap : TERM\\nwhile [ ! -e /tmp/let-go ]; do sleep 0.1; done\\n' >/usr/local/bin/etcd-stubborn; chmod +x /usr/local/bin/etcd-stubborn\n"+
		"printf '[Service]\\nExecStart=/usr/local/bin/etcd-stubborn\\nTimeoutStopSec=1s\\nRestart=always\\nKillSignal=SIGKILL\\n' >/etc/systemd/system/stubborn.service\n"+
		"systemctl daemon-reload && systemctl start stubborn")
	x := open(t, spec)
	before := inspect(t, x)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		// Twice its TimeoutStopSec after the signal the tool gives up.
		_, _ = command(t, time.Minute, "docker", "exec", m.name, "sh", "-c", "until systemctl show -p SubState stubborn | grep -q stop-sigterm; do sleep 0.1; done; sleep 2")
		cancel()
	}()
	if err := x.Stop(ctx); !errors.Is(err, ErrStillRunning) {
		t.Fatalf("stop of a member that does not end: %v", err)
	}
	if st := inspect(t, x); !st.Running || st.ID != before.ID {
		t.Fatalf("after twice its TimeoutStopSec: %+v", st)
	}
	m.exec(t, "touch /tmp/let-go")
	do(t, "stop", x.Stop)
	if st := inspect(t, x); st.Running {
		t.Fatalf("after the stop: %+v", st)
	}
	do(t, "start", func(ctx context.Context) error { m.exec(t, "rm /tmp/let-go"); return x.Start(ctx) })
	if got := m.exec(t, "systemctl show -p TimeoutStopUSec stubborn; touch /tmp/let-go"); got != "TimeoutStopUSec=1s" {
		t.Fatalf("the unit was left with %s", got)
	}
}

// overruledUnit has a drop-in that sorts behind ours and sets the program: the swap is
// refused, and leaves nothing.
func overruledUnit(t *testing.T, m *machine, spec Spec) {
	t.Helper()
	spec.Unit = "overruled"
	m.exec(t, "mkdir -p /etc/systemd/system/overruled.service.d; printf '[Service]\\nExecStart=/opt/etcd/etcd\\n' >/etc/systemd/system/overruled.service\n"+
		"printf '[Service]\\nExecStart=\\nExecStart=/opt/etcd/etcd --name last\\n' >/etc/systemd/system/overruled.service.d/99-last.conf; systemctl daemon-reload")
	x := open(t, spec)
	if err := x.Swap(t.Context(), Program{Binary: "/opt/theseus/theseus"}); err == nil || !strings.Contains(err.Error(), "99-last.conf") {
		t.Fatalf("swap under a drop-in with the last word: %v", err)
	}
	if got := m.exec(t, "ls /etc/systemd/system/overruled.service.d"); got != "99-last.conf" {
		t.Fatalf("the swap left %s", got)
	}
}

// wrappedUnit is started through a shell, as the unit of a well-known distribution is.
func wrappedUnit(t *testing.T, m *machine, spec Spec) {
	t.Helper()
	spec.Unit = "wrapped.service"
	m.exec(t, "cat >/etc/systemd/system/wrapped.service <<'E'\n[Service]\nType=notify\nEnvironment=DATA=/var/lib/wrapped\n"+
		`ExecStart=/bin/bash -c "GOMAXPROCS=$(nproc) /opt/etcd/etcd --data-dir=\"${DATA}\" --listen-client-urls=http://0.0.0.0:2379 --advertise-client-urls=http://127.0.0.1:2379"`+
		"\nE\nsystemctl daemon-reload && systemctl start wrapped")
	x := open(t, spec)
	if _, err := ask(m.client+"/v3/kv/put", map[string]string{"key": encode("way"), "value": encode("wrapped")}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []Program{{Binary: "/opt/etcd/etcd"}, {Binary: "/opt/theseus/theseus"}} {
		do(t, "stop", x.Stop)
		do(t, "swap", func(ctx context.Context) error { return x.Swap(ctx, p) })
		do(t, "start", x.Start)
		m.holds(t, "way", "wrapped")
		if st := inspect(t, x); st.Program != p || st.DataDir != "/var/lib/wrapped" || len(st.Args) != 3 {
			t.Fatalf("inspect: %+v", st)
		}
	}
	do(t, "stop", x.Stop)
	if st := inspect(t, x); st.Program.Binary != "/opt/theseus/theseus" || st.DataDir != "/var/lib/wrapped" {
		t.Fatalf("inspect of a stopped member: %+v", st)
	}
}

// moveUnit moves a real etcd 3.4 away and back, and then to Theseus.
func moveUnit(t *testing.T, m *machine, x Executor, unit string) {
	t.Helper()
	etcd, ours, crash := Program{Binary: "/opt/etcd/etcd"}, Program{Binary: "/opt/theseus/theseus"}, Program{Binary: "/usr/local/bin/crashing"}
	before := m.exec(t, "cat /etc/systemd/system/"+unit+".service")
	if _, err := ask(m.client+"/v3/kv/put", map[string]string{"key": encode("way"), "value": encode(unit)}); err != nil {
		t.Fatal(err)
	}
	st := inspect(t, x)
	if !st.Running || st.ID == "" || st.Program != etcd || st.DataDir != "/var/lib/"+unit || st.Free == 0 || st.Env["GREETING"] != "with a blank" {
		t.Fatalf("inspect: %+v", st)
	}
	want := wantArgs(unit)
	if got := strings.Join(st.Args, " "); got != want {
		t.Fatalf("args:\n%s\nwant\n%s", got, want)
	}
	stageUnit(t, x, ours)
	if err := x.Swap(t.Context(), ours); !errors.Is(err, ErrStillRunning) {
		t.Fatalf("swap of a running member: %v", err)
	}
	do(t, "stop", x.Stop)
	do(t, "stop again", x.Stop)
	stopped := inspect(t, x)
	if stopped.Running || strings.Join(stopped.Args, " ") != want || stopped.Program != etcd {
		t.Fatalf("inspect of a stopped member: %+v", stopped)
	}
	if got := m.exec(t, "ls /run/systemd/system/"+unit+".service.d 2>&1 || true"); strings.Contains(got, patienceName) {
		t.Fatalf("the drop-in of the stop is still there: %s", got)
	}

	do(t, "swap to one that crashes", func(ctx context.Context) error { return x.Swap(ctx, crash) })
	err := x.Start(t.Context())
	if err == nil {
		// It ran for a moment; systemd starts it again and again.
		await(t, "the crash", func() error {
			if inspect(t, x).Running {
				return errors.New("it runs")
			}
			return nil
		})
	} else if !strings.Contains(err.Error(), "ended at once") {
		t.Fatal(err)
	}
	await(t, "its last words", func() error {
		lines, err := x.Logs(t.Context(), 20)
		if got := strings.Join(lines, "\n"); err != nil || !strings.Contains(got, "no member today") {
			return fmt.Errorf("%w %q", err, got)
		}
		return nil
	})
	do(t, "swap back", func(ctx context.Context) error {
		if err := x.Stop(ctx); err != nil {
			return err
		}
		return x.Swap(ctx, etcd)
	})
	if got := m.exec(t, "ls /etc/systemd/system/"+unit+".service.d"); strings.Contains(got, swapName) || !strings.Contains(got, keptName) {
		t.Fatalf("after the way back there is: %s", got)
	}
	do(t, "start", x.Start)
	do(t, "start again", x.Start)
	m.holds(t, "way", unit)
	if again := inspect(t, x); again.Program != etcd || again.ID == st.ID {
		t.Fatalf("inspect after the way back: %+v", again)
	}
	toTheseus(t, m, x, unit, want)
	if after := m.exec(t, "cat /etc/systemd/system/"+unit+".service"); after != before {
		t.Fatalf("the operator's unit was changed:\n%s", after)
	}
}

func stageUnit(t *testing.T, x Executor, ours Program) {
	t.Helper()
	version, err := x.Stage(t.Context(), ours)
	if err != nil || !strings.HasPrefix(version, "theseus Version:") {
		t.Fatalf("stage: %q, %v", version, err)
	}
	for name, want := range map[string]string{"/opt/none": "copy it", "/opt": "not a file", "/etc/passwd": "chmod", "/bin/true": "it printed"} {
		if _, err := x.Stage(t.Context(), Program{Binary: name}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("stage %s: %v", name, err)
		}
	}
}

// toTheseus leaves the member with Theseus and what the end of a run leaves.
func toTheseus(t *testing.T, m *machine, x Executor, unit, want string) {
	t.Helper()
	ours := Program{Binary: "/opt/theseus/theseus"}
	do(t, "stop", x.Stop)
	for range 2 {
		do(t, "swap", func(ctx context.Context) error { return x.Swap(ctx, ours) })
	}
	drop := m.exec(t, "tail -3 /etc/systemd/system/"+unit+".service.d/"+swapName)
	if text := "[Service]\nExecStart=\nExecStart=@/opt/theseus/theseus etcd --data-dir=${DATA}      --listen-client-urls"; !strings.HasPrefix(drop, text) {
		t.Fatalf("the drop-in ends with:\n%s", drop)
	}
	do(t, "start", x.Start)
	m.holds(t, "way", unit)
	await(t, "systemd to be told that it is ready", func() error {
		_, err := command(t, 10*time.Second, "docker", "exec", m.name, "systemctl", "is-active", unit)
		return err
	})
	st := inspect(t, x)
	if !st.Running || st.Program != ours || strings.Join(st.Args, " ") != want {
		t.Fatalf("inspect of Theseus: %+v", st)
	}
	do(t, "stop", x.Stop)
	do(t, "finish", x.Finish)
	do(t, "finish again", x.Finish)
	if got := m.exec(t, "ls /etc/systemd/system/"+unit+".service.d"); got != swapName {
		t.Fatalf("after the end of the run there is: %s", got)
	}
}
