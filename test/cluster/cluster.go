package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Options say what cluster a test wants; the zero value is one Theseus member.
type Options struct {
	Size     int                  // members; 0 means 1
	Binary   Binary               // what every member runs; zero means Theseus of this tree
	Binaries []Binary             // per member, instead of Binary
	Args     []string             // further flags for every member
	Env      []string             // further environment for every member
	Proxied  bool                 // put a proxy in front of every peer port, so that links can be cut
	Token    string               // initial cluster token; empty means etcd's default
	Scheme   string               // http or https; empty means http
	MemberOf func(i int) []string // further flags for one member
}

// Cluster is a set of members on one machine.
type Cluster struct {
	t       testing.TB
	o       Options
	Members []*Member
	links   *links
}

// clusters numbers the clusters of this process, so that each gets loopback
// addresses of its own.
var clusters atomic.Uint32

// New starts a cluster and waits until every member serves. It is stopped, and
// the members' logs are shown if the test failed, by the test's cleanup.
func New(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := Prepare(t, o)
	for _, m := range c.Members {
		m.Start()
	}
	c.WaitHealthy()
	return c
}

// Prepare makes the members of a cluster without starting them.
func Prepare(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Size == 0 {
		o.Size = max(1, len(o.Binaries))
	}
	if o.Binary.Path == "" && len(o.Binaries) == 0 {
		o.Binary = Theseus(t)
	}
	c := &Cluster{t: t, o: o, links: newLinks()}
	for range o.Size {
		c.add()
	}
	t.Cleanup(c.close)
	return c
}

// add makes one more member: it is in nobody's configuration yet.
func (c *Cluster) add() *Member {
	c.t.Helper()
	i := len(c.Members)
	host := freeHost(c.t)
	m := &Member{
		t: c.t, c: c, Name: fmt.Sprintf("m%d", i+1), Binary: c.o.Binary, host: host,
		Dir: filepath.Join(c.t.TempDir(), fmt.Sprintf("m%d.etcd", i+1)), State: "new",
	}
	if i < len(c.o.Binaries) {
		m.Binary = c.o.Binaries[i]
	}
	if c.o.MemberOf != nil {
		m.Args = c.o.MemberOf(i)
	}
	if c.o.Proxied {
		m.proxy = newProxy(c.t, c.links, host+":2382", host+":2380")
	}
	c.Members = append(c.Members, m)
	return m
}

// freeHost returns a loopback address on which no port is taken yet: one for
// each member, so that etcd's own ports can be used.
func freeHost(t testing.TB) string {
	t.Helper()
	for range 1000 {
		n := clusters.Add(1)
		pid := uint32(os.Getpid())
		host := fmt.Sprintf("127.%d.%d.%d", 1+(pid>>8)%250, 1+pid%250, 1+n%250)
		l, err := net.Listen("tcp", host+":2379")
		if err == nil {
			_ = l.Close()
			return host
		}
	}
	t.Fatal("no free loopback address")
	return ""
}

func (c *Cluster) scheme() string {
	if c.o.Scheme != "" {
		return c.o.Scheme
	}
	return "http"
}

// InitialCluster returns the --initial-cluster text of the members there are.
func (c *Cluster) InitialCluster() string {
	var parts []string
	for _, m := range c.Members {
		parts = append(parts, m.Name+"="+m.PeerURL())
	}
	return strings.Join(parts, ",")
}

// Join adds a member through the API of the first, and starts it with the
// state "existing". The binary is the cluster's when b is zero.
func (c *Cluster) Join(b Binary, learner bool) *Member {
	c.t.Helper()
	m := c.add()
	m.State = "existing"
	if b.Path != "" {
		m.Binary = b
	}
	cli := c.Client(0)
	defer func() { _ = cli.Close() }()
	err := Eventually(c.t, func(ctx context.Context) error {
		if learner {
			_, err := cli.MemberAddAsLearner(ctx, []string{m.PeerURL()})
			return err
		}
		_, err := cli.MemberAdd(ctx, []string{m.PeerURL()})
		return err
	})
	if err != nil {
		c.t.Fatalf("add member %s: %v", m.Name, err)
	}
	m.Start()
	return m
}

// WaitHealthy waits until every running member answers a linearizable read.
func (c *Cluster) WaitHealthy() {
	c.t.Helper()
	for _, m := range c.Members {
		if m.Running() {
			m.WaitHealthy()
		}
	}
}

// Endpoints returns the client URLs of the members with these numbers, all
// when none is given.
func (c *Cluster) Endpoints(numbers ...int) []string {
	var eps []string
	for i, m := range c.Members {
		if len(numbers) == 0 || contains(numbers, i) {
			eps = append(eps, m.ClientURL())
		}
	}
	return eps
}

func contains(all []int, n int) bool {
	for _, v := range all {
		if v == n {
			return true
		}
	}
	return false
}

// Client connects to the members with these numbers, all when none is given.
func (c *Cluster) Client(numbers ...int) *clientv3.Client {
	c.t.Helper()
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints(numbers...), DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
	})
	if err != nil {
		c.t.Fatalf("connect: %v", err)
	}
	c.t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// Leader returns the number of the member that leads, waiting for one.
func (c *Cluster) Leader() int {
	c.t.Helper()
	leader := -1
	err := Eventually(c.t, func(ctx context.Context) error {
		for i, m := range c.Members {
			if !m.Running() || m.paused {
				continue
			}
			st, err := m.Status(ctx)
			if err == nil && st.Leader != 0 && st.Leader == st.Header.MemberId {
				leader = i
				return nil
			}
		}
		return fmt.Errorf("no member leads")
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return leader
}

// Cut breaks the link between two members in both directions; Heal mends all.
// Both need Options.Proxied.
func (c *Cluster) Cut(a, b int) {
	for _, m := range c.Members {
		c.links.own(m.host+":2382", m.ID())
	}
	c.links.cut(c.Members[a].ID(), c.Members[b].ID())
}

// Isolate cuts one member off from all others.
func (c *Cluster) Isolate(i int) {
	for j := range c.Members {
		if j != i {
			c.Cut(i, j)
		}
	}
}

// Heal mends every link.
func (c *Cluster) Heal() { c.links.heal() }

func (c *Cluster) close() {
	for _, m := range c.Members {
		m.Kill()
		if c.t.Failed() {
			c.t.Logf("--- log of %s (%s)\n%s", m.Name, m.Binary.Name, m.LogTail(40))
		}
		if m.proxy != nil {
			m.proxy.close()
		}
	}
}

// Eventually repeats try until it returns nil, and gives its last error after
// a minute. Each try has five seconds.
func Eventually(t testing.TB, try func(ctx context.Context) error) error {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := try(ctx)
		cancel()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		pause(20 * time.Millisecond)
	}
}

// pause yields between two looks at something in another process, which cannot
// tell us when it changes.
func pause(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
}
