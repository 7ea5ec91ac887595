package upgrade

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"theseus/test/cluster"
	"theseus/test/history"
	tool "theseus/upgrade"
	"theseus/upgrade/host"
)

// live is a cluster of processes that nobody but the tool moves.
type live struct {
	t    *testing.T
	dir  string
	file string // the inventory
	inv  tool.Inventory
	bin  string // the tool
}

// nets numbers the clusters of this process; each has a loopback net of its own.
var nets atomic.Int32

// start makes a cluster of three that runs the binary, and an inventory whose target is
// another one. args are further flags of the members.
func start(t *testing.T, from, to cluster.Binary, hops []cluster.Binary, args ...string) *live {
	t.Helper()
	l := &live{t: t, dir: t.TempDir(), bin: cluster.Theseus(t).Path}
	pid := os.Getpid()
	net := fmt.Sprintf("127.%d.%d", 1+(pid>>7)%250, 1+(pid*2+int(nets.Add(1)))%250)
	var initial []string
	for i := 1; i <= 3; i++ {
		initial = append(initial, fmt.Sprintf("m%d=http://%s.%d:2380", i, net, i))
	}
	l.inv.Cluster = "live"
	for i := 1; i <= 3; i++ {
		name, at := fmt.Sprintf("m%d", i), fmt.Sprintf("http://%s.%d", net, i)
		dir := filepath.Join(l.dir, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		command := append([]string{from.Path}, from.Args...)
		command = append(command, "--name", name, "--data-dir", filepath.Join(dir, "data"),
			"--listen-client-urls", at+":2379", "--advertise-client-urls", at+":2379",
			"--listen-peer-urls", at+":2380", "--initial-advertise-peer-urls", at+":2380",
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new")
		l.inv.Members = append(l.inv.Members, tool.InventoryMember{Name: name, Endpoint: at + ":2379", Host: host.Spec{
			Kind: "process", Command: append(command, args...), PIDFile: filepath.Join(dir, "pid"), Log: filepath.Join(dir, "log")}})
	}
	l.inv.Backup.Archive = "dir:" + filepath.Join(l.dir, "backups")
	l.target(to, hops...)
	t.Cleanup(l.end)
	hosts, err := l.inv.Hosts()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		if err := h.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	l.healthy()
	return l
}

// target writes the inventory with another target.
func (l *live) target(to cluster.Binary, hops ...cluster.Binary) {
	l.t.Helper()
	l.inv.Target, l.inv.Hops = tool.Program{Binary: to.Path}, nil
	for _, h := range hops {
		l.inv.Hops = append(l.inv.Hops, tool.Program{Binary: h.Path})
	}
	text, err := json.Marshal(l.inv) // JSON is YAML
	if err != nil {
		l.t.Fatal(err)
	}
	l.file = filepath.Join(l.dir, "up.yaml")
	if err := os.WriteFile(l.file, text, 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// end kills the members by the pids in their files, and shows what they wrote if the
// test failed.
func (l *live) end() {
	for _, m := range l.inv.Members {
		raw, err := os.ReadFile(m.Host.PIDFile)
		if pid, bad := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil && bad == nil && l.ours(pid, m.Host) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if text, err := os.ReadFile(m.Host.Log); err == nil && l.t.Failed() {
			lines := strings.Split(string(text), "\n")
			l.t.Logf("--- log of %s\n%s", m.Name, strings.Join(lines[max(0, len(lines)-25):], "\n"))
		}
	}
}

// ours says whether the process is the member still: a pid may have been given again.
func (l *live) ours(pid int, s host.Spec) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(raw), filepath.Dir(s.PIDFile))
}

func (l *live) client(endpoints ...string) *clientv3.Client {
	l.t.Helper()
	if len(endpoints) == 0 {
		endpoints = l.inv.Endpoints()
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	return c
}

// healthy waits until every member answers a linearizable read.
func (l *live) healthy() {
	l.t.Helper()
	for _, m := range l.inv.Members {
		c := l.client(m.Endpoint)
		if err := cluster.Eventually(l.t, func(ctx context.Context) error { _, err := c.Get(ctx, "health"); return err }); err != nil {
			l.t.Fatalf("%s: %v", m.Name, err)
		}
	}
}

// run runs the tool and returns its exit code and what it wrote.
func (l *live) run(args ...string) (int, string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 4*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, l.bin, append([]string{"upgrade"}, args...)...).CombinedOutput()
	if err == nil {
		return 0, string(out)
	}
	if x, ok := err.(*exec.ExitError); ok {
		return x.ExitCode(), string(out)
	}
	l.t.Fatal(err)
	return -1, ""
}

// must runs a verb on the inventory, which has to end well.
func (l *live) must(verb string, args ...string) string {
	l.t.Helper()
	code, out := l.run(append([]string{verb, "-f", l.file}, args...)...)
	if code != 0 {
		l.t.Fatalf("%s: exit code %d\n%s", verb, code, out)
	}
	return out
}

// versions asks every member for its own server and cluster version.
func (l *live) versions(want string) {
	l.t.Helper()
	out := l.must("status", "-o", "json")
	var s tool.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		l.t.Fatal(err)
	}
	for _, m := range s.Members {
		if !strings.Contains(m.Version, want) || m.State != "healthy" {
			l.t.Errorf("%s runs %s (%s), want %s", m.Name, m.Version, m.State, want)
		}
	}
}

// load is clients of all members that write, read and watch as long as a test moves the
// cluster.
type load struct {
	l       *live
	rec     *history.Recorder
	stop    chan struct{}
	wg      sync.WaitGroup
	done    atomic.Int64
	mu      sync.Mutex // guards the errors
	errs    []string
	cancel  context.CancelFunc
	seen    atomic.Int64
	watched chan *history.Stream
}

const clients = 3

func (l *live) load() *load {
	l.t.Helper()
	x := &load{l: l, rec: history.NewRecorder(), stop: make(chan struct{}), watched: make(chan *history.Stream, 1)}
	for i := range clients {
		c := l.client()
		x.wg.Go(func() { x.write(i, c) })
	}
	ctx, cancel := context.WithCancel(context.Background())
	x.cancel = cancel
	c := l.client()
	first, err := c.Get(l.t.Context(), "k")
	if err != nil {
		l.t.Fatal(err)
	}
	from := first.Header.Revision + 1
	go func() {
		s := &history.Stream{Name: "w", Start: from}
		for ctx.Err() == nil {
			for r := range c.Watch(clientv3.WithRequireLeader(ctx), "k", clientv3.WithPrefix(), clientv3.WithRev(max(from, s.Last()+1))) {
				s.Add(r)
				x.seen.Store(s.Last())
			}
		}
		x.watched <- s
	}()
	return x
}

func (x *load) write(id int, c *clientv3.Client) {
	rnd := rand.New(rand.NewPCG(1, uint64(id)))
	for n := 0; ; n++ {
		select {
		case <-x.stop:
			return
		case <-time.After(time.Duration(rnd.IntN(12)) * time.Millisecond):
		}
		q := history.Request{Kind: history.Put, Key: fmt.Sprintf("k%d", rnd.IntN(5)), Value: fmt.Sprintf("c%d-%d", id, n)}
		if rnd.IntN(2) == 0 {
			q.Kind, q.Value = history.Get, ""
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		_, err := x.rec.Do(id, q, func() (history.Answer, error) { return call(ctx, c, q) })
		cancel()
		if err == nil {
			x.done.Add(1)
			continue
		}
		x.mu.Lock()
		x.errs = append(x.errs, fmt.Sprintf("%s %s: %v", q.Kind, q.Key, err))
		x.mu.Unlock()
	}
}

func call(ctx context.Context, c *clientv3.Client, q history.Request) (a history.Answer, err error) {
	if q.Kind == history.Put {
		r, err := c.Put(ctx, q.Key, q.Value)
		if err == nil {
			a.Revision = r.Header.Revision
		}
		return a, err
	}
	r, err := c.Get(ctx, q.Key)
	if err != nil {
		return a, err
	}
	a.Revision = r.Header.Revision
	if len(r.Kvs) == 1 {
		a.Found, a.Value, a.Mod = true, string(r.Kvs[0].Value), r.Kvs[0].ModRevision
	}
	return a, nil
}

// end stops the clients and holds what they were told against what may be.
func (x *load) end(mayFail int) {
	t := x.l.t
	t.Helper()
	close(x.stop)
	x.wg.Wait()
	var last int64
	for rev := range x.rec.Acknowledged() {
		last = max(last, rev)
	}
	if err := cluster.Eventually(t, func(context.Context) error {
		if s := x.seen.Load(); s < last {
			return fmt.Errorf("the watcher has seen %d of %d", s, last)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	x.cancel()
	stream := <-x.watched
	t.Logf("%d requests answered, %d failed %q", x.done.Load(), len(x.errs), x.errs)
	if len(x.errs) > mayFail {
		t.Errorf("%d requests failed", len(x.errs))
	}
	if x.done.Load() < 100 {
		t.Errorf("only %d requests: there was no load", x.done.Load())
	}
	if err := x.rec.Linearizable(time.Minute); err != nil {
		t.Error(err)
	}
	if err := history.CheckWatch([]*history.Stream{stream}, x.rec.Acknowledged()); err != nil {
		t.Error(err)
	}
}
