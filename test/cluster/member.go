package cluster

import (
	"context"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Member is one process with its data directory and addresses. Its methods are
// called from the test's goroutine, except Kill, Pause and Resume, which faults
// may call from one other.
type Member struct {
	t      testing.TB
	c      *Cluster
	Name   string
	Binary Binary
	Dir    string
	State  string   // --initial-cluster-state
	Args   []string // further flags for this member

	host   string
	proxy  *proxy
	mu     sync.Mutex // guards what follows
	cmd    *exec.Cmd
	done   chan struct{} // closed when the process has ended
	exit   error
	paused bool
	log    logBuffer
	id     uint64
}

// ClientURL returns where clients reach the member.
func (m *Member) ClientURL() string { return m.c.scheme() + "://" + m.host + ":2379" }

// PeerURL returns where the other members reach it: its proxy when there is one.
func (m *Member) PeerURL() string {
	if m.proxy != nil {
		return m.c.scheme() + "://" + m.host + ":2382"
	}
	return m.c.scheme() + "://" + m.host + ":2380"
}

// ID returns the member's raft ID: computed for the members that the cluster
// was born with, asked of the member itself otherwise.
func (m *Member) ID() uint64 {
	if m.id != 0 {
		return m.id
	}
	if m.State == "new" {
		token := m.c.o.Token
		if token == "" {
			token = "etcd-cluster"
		}
		sum := sha1.Sum([]byte(m.PeerURL() + token))
		m.id = binary.BigEndian.Uint64(sum[:8])
		return m.id
	}
	err := Eventually(m.t, func(ctx context.Context) error {
		st, err := m.Status(ctx)
		if err == nil {
			m.id = st.Header.MemberId
		}
		return err
	})
	if err != nil {
		m.t.Fatalf("id of %s: %v", m.Name, err)
	}
	return m.id
}

// Flags returns the command line the member is started with, the same for
// every version there is.
func (m *Member) Flags() []string {
	flags := append([]string{}, m.Binary.Args...)
	flags = append(flags,
		"--name", m.Name, "--data-dir", m.Dir,
		"--listen-client-urls", m.ClientURL(), "--advertise-client-urls", m.ClientURL(),
		"--listen-peer-urls", m.c.scheme()+"://"+m.host+":2380", "--initial-advertise-peer-urls", m.PeerURL(),
		"--initial-cluster", m.c.InitialCluster(), "--initial-cluster-state", m.State,
	)
	if m.c.o.Token != "" {
		flags = append(flags, "--initial-cluster-token", m.c.o.Token)
	}
	flags = append(flags, m.c.o.Args...)
	return append(flags, m.Args...)
}

// Start runs the member's binary on its data directory and returns at once.
func (m *Member) Start() {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	cmd := exec.Command(m.Binary.Path, m.Flags()...)
	cmd.Env = append(os.Environ(), m.c.o.Env...)
	cmd.Stdout, cmd.Stderr = &m.log, &m.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		m.t.Fatalf("start %s: %v", m.Name, err)
	}
	done := make(chan struct{})
	m.cmd, m.done, m.paused = cmd, done, false
	go func() {
		m.exit = cmd.Wait()
		close(done)
	}()
}

// Running reports whether the process is there.
func (m *Member) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return false
	}
	select {
	case <-m.done:
		return false
	default:
		return true
	}
}

// Stop sends SIGTERM and returns how long the process took to end.
func (m *Member) Stop() time.Duration {
	m.t.Helper()
	begin := time.Now()
	m.signal(syscall.SIGTERM)
	m.WaitExit()
	return time.Since(begin)
}

// WaitExit waits for the process to end and returns what it ended with.
func (m *Member) WaitExit() error {
	m.t.Helper()
	m.mu.Lock()
	done := m.done
	m.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return m.exit
	case <-time.After(30 * time.Second):
		m.t.Errorf("%s did not end within 30 s", m.Name)
		m.Kill()
		return nil
	}
}

// Kill is kill -9.
func (m *Member) Kill() {
	m.signal(syscall.SIGCONT)
	m.signal(syscall.SIGKILL)
	m.mu.Lock()
	done := m.done
	m.mu.Unlock()
	if done != nil {
		<-done
	}
}

// Pause is SIGSTOP; Resume is SIGCONT.
func (m *Member) Pause() { m.paused = true; m.signal(syscall.SIGSTOP) }

// Resume lets a paused member go on.
func (m *Member) Resume() { m.paused = false; m.signal(syscall.SIGCONT) }

func (m *Member) signal(s syscall.Signal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return
	}
	select {
	case <-m.done:
	default:
		_ = m.cmd.Process.Signal(s)
	}
}

// PID returns the process id, 0 when the member was never started.
func (m *Member) PID() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return 0
	}
	return m.cmd.Process.Pid
}

// Client connects to this member alone.
func (m *Member) Client() *clientv3.Client {
	m.t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{m.ClientURL()}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		m.t.Fatalf("connect to %s: %v", m.Name, err)
	}
	m.t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// Status asks the member for its own view.
func (m *Member) Status(ctx context.Context) (*pb.StatusResponse, error) {
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{m.ClientURL()}, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	defer func() { _ = cli.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, err := cli.Status(ctx, m.ClientURL())
	return (*pb.StatusResponse)(st), err
}

// HashKV asks the member for its hash at a revision; 0 means the newest.
func (m *Member) HashKV(ctx context.Context, rev int64) (*pb.HashKVResponse, error) {
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{m.ClientURL()}, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	defer func() { _ = cli.Close() }()
	h, err := cli.HashKV(ctx, m.ClientURL(), rev)
	return (*pb.HashKVResponse)(h), err
}

// WaitHealthy waits until /health is true, and fails the test with the log
// when the process ends instead.
func (m *Member) WaitHealthy() {
	m.t.Helper()
	err := Eventually(m.t, func(context.Context) error {
		if !m.Running() {
			m.t.Fatalf("%s (%s) ended: %v\n%s", m.Name, m.Binary.Name, m.exit, m.LogTail(20))
		}
		body, err := m.HTTP("/health")
		if err == nil && !strings.Contains(strings.ReplaceAll(body, " ", ""), `"health":"true"`) {
			err = fmt.Errorf("health: %s", body)
		}
		return err
	})
	if err != nil {
		m.t.Fatalf("%s is not healthy: %v", m.Name, err)
	}
}

// HTTP gets a path from the client port and returns the body.
func (m *Member) HTTP(path string) (string, error) {
	cli := http.Client{Timeout: 3 * time.Second}
	resp, err := cli.Get(m.ClientURL() + path)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(b), err
}

// LogTail returns the last lines the member wrote.
func (m *Member) LogTail(lines int) string { return m.log.tail(lines) }

// Log returns everything kept of what the member wrote.
func (m *Member) Log() string { return m.log.tail(1 << 30) }

// CPU returns the processor time that the running process has used.
func (m *Member) CPU() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.PID()))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// logBuffer keeps the last megabytes of a member's output.
type logBuffer struct {
	mu sync.Mutex
	b  []byte
}

const logKeepBytes = 4 << 20

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	if len(l.b) > 2*logKeepBytes {
		l.b = append([]byte(nil), l.b[len(l.b)-logKeepBytes:]...)
	}
	return len(p), nil
}

func (l *logBuffer) tail(lines int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := strings.Split(strings.TrimRight(string(l.b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// ExitStatus is what the ended process left: a syscall.WaitStatus.
func (m *Member) ExitStatus() any {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil || m.cmd.ProcessState == nil {
		return nil
	}
	return m.cmd.ProcessState.Sys()
}
