package faults

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"theseus/test/cluster"
	"theseus/test/history"
)

// trace tells what became of calls while a cluster is changed under them: which had
// no answer, whom they had asked, and how long no write at all was answered.
type trace struct {
	mu       sync.Mutex
	stages   []stage
	failures []failure
	answered map[string]map[int]bool // by member: which clients it has answered in this stage
}

// stage is what is done to the cluster at a time. The gap between two answered writes
// counts in the stage in which it ends.
type stage struct {
	what   string
	began  time.Time
	writes int
	last   time.Time // when the newest write was answered
	gap    time.Duration
	stall  time.Duration // by how much this process itself was late at worst
}

// failure is one call without an answer.
type failure struct {
	kind         history.Kind
	stage, asked string
	began, ended time.Time
	err          error
}

// begin starts a stage.
func (c *trace) begin(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := stage{what: fmt.Sprintf(format, args...), began: time.Now()}
	if n := len(c.stages); n > 0 {
		next.last = c.stages[n-1].last
	}
	c.stages = append(c.stages, next)
	c.answered = map[string]map[int]bool{}
}

// watchClock notes how late this process comes to what it wants to do, until stop is
// closed: on a busy machine that is as much as the cluster can be blamed for.
func (c *trace) watchClock(stop <-chan struct{}) {
	const every = 5 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		now := time.Now()
		c.mu.Lock()
		s := &c.stages[len(c.stages)-1]
		s.stall = max(s.stall, now.Sub(last)-every)
		c.mu.Unlock()
		last = now
	}
}

// call notes how a call ended. A nil trace takes no notes.
func (c *trace) call(client int, q history.Request, began time.Time, asked string, err error) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := &c.stages[len(c.stages)-1]
	at := time.Now()
	if err != nil {
		c.failures = append(c.failures, failure{q.Kind, now.what, asked, began, at, err})
		return
	}
	if c.answered[asked] == nil {
		c.answered[asked] = map[int]bool{}
	}
	c.answered[asked][client] = true
	if q.Kind == history.Get {
		return
	}
	if now.writes++; !now.last.IsZero() {
		now.gap = max(now.gap, at.Sub(now.last))
	}
	now.last = at
}

// waitFor waits until a member has answered that many clients in this stage. A gRPC
// client looks again for a member that was away after a second or more: who stops the
// next one before that leaves it with nobody to ask.
func (c *trace) waitFor(t *testing.T, member string, clients int) {
	t.Helper()
	err := cluster.Eventually(t, func(context.Context) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := len(c.answered[member]); n < clients {
			return fmt.Errorf("%s has answered %d clients of %d", member, n, clients)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// show logs all that was noted.
func (c *trace) show(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.stages {
		t.Logf("%-40s %4d writes, longest gap %3d ms (the test itself was %d ms late)", s.what, s.writes, s.gap.Milliseconds(), s.stall.Milliseconds())
	}
	for _, f := range c.failures {
		t.Logf("failed in %q: %s of %s, %s after the stage began, took %s: %v", f.stage, f.kind, f.asked,
			f.began.Sub(c.of(f.stage).began).Round(time.Millisecond), f.ended.Sub(f.began).Round(time.Millisecond), f.err)
	}
}

func (c *trace) of(what string) stage {
	i := slices.IndexFunc(c.stages, func(s stage) bool { return s.what == what })
	return c.stages[i]
}

// longestGap is how long all writes may stand still while members are replaced: less
// than an election takes. On a machine that has nothing else to do it is below 100 ms.
const longestGap = 900 * time.Millisecond

// judge holds Theseus to what was noted. A real etcd that is stopped breaks its
// connections with requests under way, and drops proposals while it hands over: what
// it was asked itself then, it may fail.
func (c *trace) judge(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	theirs := 0
	for _, f := range c.failures {
		if strings.HasPrefix(f.stage, f.asked+": ") && f.began.Before(c.after(f.asked+": starting")) {
			theirs++
			continue
		}
		t.Errorf("failed at %s in %q: %s: %v", f.asked, f.stage, f.kind, f.err)
	}
	var gap stage
	for _, s := range c.stages {
		if s.gap > gap.gap {
			gap = s
		}
	}
	t.Logf("%d requests failed at the real member that was being stopped, %d at others; longest gap %d ms, in %q",
		theirs, len(c.failures)-theirs, gap.gap.Milliseconds(), gap.what)
	if gap.gap > longestGap {
		t.Errorf("no write was answered for %s", gap.gap)
	}
}

// after is when the stage began whose name begins like this.
func (c *trace) after(prefix string) time.Time {
	for _, s := range c.stages {
		if strings.HasPrefix(s.what, prefix) {
			return s.began
		}
	}
	return time.Time{}
}

type askedKey struct{}

// withAsked has the address of the member that a call was sent to last noted.
func withAsked(ctx context.Context) (context.Context, *string) {
	at := new(string)
	return context.WithValue(ctx, askedKey{}, at), at
}

// tracedClient is a client of all members whose calls tell whom they asked.
func tracedClient(t *testing.T, c *cluster.Cluster) *clientv3.Client {
	t.Helper()
	note := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		at, ok := ctx.Value(askedKey{}).(*string)
		if !ok {
			return call(ctx, method, req, reply, cc, opts...)
		}
		var to peer.Peer
		err := call(ctx, method, req, reply, cc, append(opts, grpc.Peer(&to))...)
		if *at = "nobody"; to.Addr != nil {
			*at = to.Addr.String()
			for _, m := range c.Members {
				if "http://"+*at == m.ClientURL() {
					*at = m.Name
				}
			}
		}
		return err
	}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints(), DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(note)},
	})
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}
