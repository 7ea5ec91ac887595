package upgrade

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

	scheme string
	net    string          // the first three numbers of the members' addresses
	login  clientv3.Config // TLS, user and password of the test's own clients
}

// nets numbers the clusters of this process; each has a loopback net of its own.
var nets atomic.Int32

// start makes a cluster of three processes that runs the binary, and an inventory whose
// target is another one. args are further flags of the members.
func start(t *testing.T, from, to cluster.Binary, hops []cluster.Binary, args ...string) *live {
	t.Helper()
	l := prepare(t, "http")
	for i := 1; i <= 3; i++ {
		l.process(i, from, args...)
	}
	l.target(to, hops...)
	l.up()
	return l
}

// prepare makes room for a cluster on a loopback net of its own.
func prepare(t *testing.T, scheme string) *live {
	t.Helper()
	l := &live{t: t, dir: t.TempDir(), bin: cluster.Theseus(t).Path, scheme: scheme}
	pid := os.Getpid()
	l.net = fmt.Sprintf("127.%d.%d", 1+(pid>>7)%250, 1+(pid*2+int(nets.Add(1)))%250)
	l.inv.Cluster = "live"
	l.inv.Backup.Archive = "dir:" + filepath.Join(l.dir, "backups")
	t.Cleanup(l.end)
	return l
}

// flags are those of the i-th of three members, whose data is in a folder.
func (l *live) flags(i int, data string, args ...string) []string {
	at := func(i int) string { return fmt.Sprintf("%s://%s.%d", l.scheme, l.net, i) }
	var initial []string
	for i := 1; i <= 3; i++ {
		initial = append(initial, fmt.Sprintf("m%d=%s:2380", i, at(i)))
	}
	return append([]string{"--name", fmt.Sprintf("m%d", i), "--data-dir", data,
		"--listen-client-urls", at(i) + ":2379", "--advertise-client-urls", at(i) + ":2379",
		"--listen-peer-urls", at(i) + ":2380", "--initial-advertise-peer-urls", at(i) + ":2380",
		"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new"}, args...)
}

// member makes the folder of the i-th member and a line in the inventory.
func (l *live) member(i int, spec func(dir string) host.Spec) {
	l.t.Helper()
	name := fmt.Sprintf("m%d", i)
	dir := filepath.Join(l.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		l.t.Fatal(err)
	}
	l.inv.Members = append(l.inv.Members, tool.InventoryMember{Name: name, Endpoint: fmt.Sprintf("%s://%s.%d:2379", l.scheme, l.net, i), Host: spec(dir)})
}

// process makes the i-th member a process.
func (l *live) process(i int, from cluster.Binary, args ...string) {
	l.t.Helper()
	l.member(i, func(dir string) host.Spec {
		command := append([]string{from.Path}, from.Args...)
		command = append(command, l.flags(i, filepath.Join(dir, "data"), args...)...)
		return host.Spec{Kind: "process", Command: command, PIDFile: filepath.Join(dir, "pid"), Log: filepath.Join(dir, "log")}
	})
}

// up starts the members, each in its own way.
func (l *live) up() {
	l.t.Helper()
	hosts, err := l.inv.Hosts()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, h := range hosts {
		if err := h.Start(l.t.Context()); err != nil {
			l.t.Fatal(err)
		}
		if err := h.Close(); err != nil {
			l.t.Fatal(err)
		}
	}
	l.healthy()
}

// target writes the inventory with another target.
func (l *live) target(to cluster.Binary, hops ...cluster.Binary) {
	l.t.Helper()
	l.inv.Target.Binary, l.inv.Hops = to.Path, nil
	for _, h := range hops {
		l.inv.Hops = append(l.inv.Hops, tool.Program{Binary: h.Path})
	}
	l.write()
}

// write writes the inventory.
func (l *live) write() {
	l.t.Helper()
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
		if m.Host.Kind != "process" {
			continue // whoever made it removes it
		}
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
	conf := l.login
	conf.Endpoints, conf.DialTimeout, conf.Logger = endpoints, 5*time.Second, zap.NewNop()
	c, err := clientv3.New(conf)
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

// droppedByEtcd says whether a request failed the way a real etcd fails one that it has in
// hand when it is ended, or that reaches it while it gives the leadership away. Theseus
// does neither.
func droppedByEtcd(err string) bool {
	return slices.ContainsFunc([]string{"error reading from server: EOF", "raft proposal dropped", "possibly due to previous leader failure", "connection reset by peer",
		"malformed header: missing HTTP content-type"}, // over TLS, where its gRPC is a handler of net/http that ends without an answer
		func(text string) bool { return strings.Contains(err, text) })
}

// end stops the clients and holds what they were told against what may be: mayFail is for
// requests that a real follower forwards to a real leader that drops them, so that they
// wait for their time limit. What a real etcd answers with an error may be ten times as
// many: it is as many as arrive in the moment.
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
	slow, odd := 0, 0
	for _, e := range x.errs {
		switch {
		case strings.Contains(e, "context deadline exceeded"):
			slow++
		case !droppedByEtcd(e):
			odd++
		}
	}
	if odd > 0 || slow > mayFail || len(x.errs) > 10*mayFail {
		t.Errorf("%d requests failed, %d had no answer in time, %d for no reason of a real etcd", len(x.errs), slow, odd)
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
