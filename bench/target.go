package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Target is one server program under measurement.
type Target struct {
	Name string
	Path string
	Args []string // before etcd's flags
}

// member is one running process of a target.
type member struct {
	target Target
	name   string
	host   string
	dir    string
	cmd    *exec.Cmd
	log    *os.File
}

func (m *member) clientURL() string { return "http://" + m.host + ":2379" }
func (m *member) peerURL() string   { return "http://" + m.host + ":2380" }

// cluster is the members of one target.
type cluster struct {
	members []*member
	dir     string
}

// hosts numbers loopback addresses so that no two clusters of a run share one.
var hosts = 10

func freeHost() (string, error) {
	for range 200 {
		hosts++
		host := fmt.Sprintf("127.77.%d.%d", hosts/200, 1+hosts%200)
		l, err := net.Listen("tcp", host+":2379")
		if err == nil {
			return host, l.Close()
		}
	}
	return "", errors.New("no free loopback address: other servers hold port 2379 on 127.77.0.0/16")
}

// newCluster makes directories and addresses for n members of a target.
func newCluster(t Target, n int) (*cluster, error) {
	dir, err := os.MkdirTemp("", "theseus-bench-")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir}
	for i := range n {
		host, err := freeHost()
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("m%d", i+1)
		c.members = append(c.members, &member{target: t, name: name, host: host, dir: filepath.Join(dir, name)})
	}
	return c, nil
}

// start runs every member and returns how long it took until all were healthy.
func (c *cluster) start() (time.Duration, error) {
	begin := time.Now()
	var initial []string
	for _, m := range c.members {
		initial = append(initial, m.name+"="+m.peerURL())
	}
	for _, m := range c.members {
		if err := m.start(strings.Join(initial, ",")); err != nil {
			return 0, err
		}
	}
	for _, m := range c.members {
		if err := m.waitHealthy(); err != nil {
			return 0, err
		}
	}
	return time.Since(begin), nil
}

func (m *member) start(initial string) error {
	args := append([]string{}, m.target.Args...)
	args = append(args, "--name", m.name, "--data-dir", m.dir, "--log-level", "error", "--quota-backend-bytes", "8589934592",
		"--listen-client-urls", m.clientURL(), "--advertise-client-urls", m.clientURL(),
		"--listen-peer-urls", m.peerURL(), "--initial-advertise-peer-urls", m.peerURL(), "--initial-cluster", initial)
	log, err := os.OpenFile(m.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	m.log = log
	m.cmd = exec.Command(m.target.Path, args...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return m.cmd.Start()
}

// waitHealthy polls every millisecond: what is measured is the server's start.
func (m *member) waitHealthy() error {
	cli := http.Client{Timeout: time.Second}
	for range 120_000 {
		resp, err := cli.Get(m.clientURL() + "/health")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(time.Millisecond)
	}
	text, _ := os.ReadFile(m.dir + ".log")
	return fmt.Errorf("%s did not become healthy; its log ends: %s", m.target.Name, tail(string(text), 500))
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// stop sends SIGTERM to all and returns how long the slowest took.
func (c *cluster) stop() time.Duration {
	begin := time.Now()
	for _, m := range c.members {
		if m.cmd != nil && m.cmd.Process != nil {
			_ = m.cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	for _, m := range c.members {
		if m.cmd != nil && m.cmd.Process != nil {
			_ = m.cmd.Wait()
			_ = m.log.Close()
			m.cmd = nil
		}
	}
	return time.Since(begin)
}

func (c *cluster) remove() {
	c.stop()
	_ = os.RemoveAll(c.dir)
}

// cpu is the processor time of all members so far.
func (c *cluster) cpu() time.Duration {
	var sum time.Duration
	for _, m := range c.members {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		user, _ := strconv.ParseInt(f[11], 10, 64)
		system, _ := strconv.ParseInt(f[12], 10, 64)
		sum += time.Duration(user+system) * (time.Second / 100)
	}
	return sum
}

// peakMiB is the largest resident size of any member so far.
func (c *cluster) peakMiB() float64 {
	var most float64
	for _, m := range c.members {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.cmd.Process.Pid))
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(b), "\n") {
			if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				kib, _ := strconv.ParseFloat(strings.Fields(v)[0], 64)
				most = max(most, kib/1024)
			}
		}
	}
	return most
}

// clients opens n connections spread over the members.
func (c *cluster) clients(n int) ([]*clientv3.Client, func(), error) {
	var all []*clientv3.Client
	closeAll := func() {
		for _, cli := range all {
			_ = cli.Close()
		}
	}
	for i := range n {
		cli, err := clientv3.New(clientv3.Config{
			Endpoints: []string{c.members[i%len(c.members)].clientURL()}, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		})
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		all = append(all, cli)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err = cli.Get(ctx, "warm")
		cancel()
		if err != nil {
			closeAll()
			return nil, nil, err
		}
	}
	return all, closeAll, nil
}
