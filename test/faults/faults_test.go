package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"theseus/test/cluster"
	"theseus/test/history"
)

// seed is taken from THESEUS_SEED, so that a run can be repeated as far as
// processes allow.
func seed(t *testing.T) uint64 {
	if s := os.Getenv("THESEUS_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return uint64(os.Getpid())
}

func binary(t *testing.T) cluster.Binary {
	if v := os.Getenv("THESEUS_FAULTS_BINARY"); v != "" {
		return cluster.Etcd(t, v)
	}
	return cluster.Theseus(t)
}

// fault does something to the cluster and undoes it.
type fault struct {
	name string
	do   func(t *testing.T, c *cluster.Cluster, rnd *rand.Rand, l *load)
}

// progress waits until the clients had n more answers: time measured in what the
// cluster does, not on a clock.
func (l *load) progress(t *testing.T, n int64) {
	t.Helper()
	want := l.done.Load() + n
	if err := cluster.Eventually(t, func(context.Context) error {
		if got := l.done.Load(); got < want {
			return fmt.Errorf("%d answers of %d", got, want)
		}
		return nil
	}); err != nil {
		t.Fatalf("the cluster stopped answering: %v", err)
	}
}

var faults = []fault{
	{"kill any", func(t *testing.T, c *cluster.Cluster, rnd *rand.Rand, l *load) {
		m := c.Members[rnd.IntN(len(c.Members))]
		m.Kill()
		l.progress(t, 20)
		m.Start()
		m.WaitHealthy()
	}},
	{"kill the leader", func(t *testing.T, c *cluster.Cluster, _ *rand.Rand, l *load) {
		m := c.Members[c.Leader()]
		m.Kill()
		l.progress(t, 20)
		m.Start()
		m.WaitHealthy()
	}},
	{"kill all", func(t *testing.T, c *cluster.Cluster, _ *rand.Rand, _ *load) {
		for _, m := range c.Members {
			m.Kill()
		}
		for _, m := range c.Members {
			m.Start()
		}
		c.WaitHealthy()
	}},
	{"stop and go on", func(t *testing.T, c *cluster.Cluster, rnd *rand.Rand, l *load) {
		m := c.Members[rnd.IntN(len(c.Members))]
		m.Pause()
		l.progress(t, 50)
		m.Resume()
		m.WaitHealthy()
	}},
	{"cut off any", func(t *testing.T, c *cluster.Cluster, rnd *rand.Rand, l *load) {
		c.Isolate(rnd.IntN(len(c.Members)))
		l.progress(t, 50)
		c.Heal()
		c.WaitHealthy()
	}},
	{"cut one link", func(t *testing.T, c *cluster.Cluster, rnd *rand.Rand, l *load) {
		a := rnd.IntN(len(c.Members))
		c.Cut(a, (a+1)%len(c.Members))
		l.progress(t, 50)
		c.Heal()
		c.WaitHealthy()
	}},
	{"lag behind a snapshot", func(t *testing.T, c *cluster.Cluster, rnd *rand.Rand, l *load) {
		m := c.Members[rnd.IntN(len(c.Members))]
		m.Kill()
		l.progress(t, 250) // more than SnapshotCount and the entries kept behind it
		m.Start()
		m.WaitHealthy()
	}},
}

// TestHistoriesUnderFaults is the main test of replication: whatever happens to
// three members, what clients were told is linearizable, and watchers see every
// event in order and once.
func TestHistoriesUnderFaults(t *testing.T) {
	s := seed(t)
	t.Logf("THESEUS_SEED=%d", s)
	rnd := rand.New(rand.NewPCG(s, 0))
	c := cluster.New(t, cluster.Options{
		Size: 3, Binary: binary(t), Proxied: true,
		Args: []string{"--snapshot-count", "50", "--snapshot-catchup-entries", "50", "--watch-progress-notify-interval", "200ms"},
	})
	l := &load{rec: history.NewRecorder(), keys: 5, stop: make(chan struct{}), pause: 5 * time.Millisecond}
	for i := range 6 {
		l.start(i, s, c.Client(i%3))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	watchers := startWatchers(ctx, c)

	for _, i := range rnd.Perm(len(faults)) {
		t.Logf("fault: %s", faults[i].name)
		faults[i].do(t, c, rnd, l)
		l.progress(t, 20)
	}
	l.end()
	last := catchUp(t, c)
	streams := watchers.collect(t, last, cancel)
	t.Logf("%d calls answered, %d without an answer, last revision %d", l.done.Load(), l.unknown.Load(), last)
	if err := l.rec.Linearizable(time.Minute); err != nil {
		t.Error(err)
	}
	if err := history.CheckWatch(streams, l.rec.Acknowledged()); err != nil {
		t.Error(err)
	}
	sameHash(t, c, last)
}

// group is watchers that run until they have seen a revision.
type group struct {
	wg      sync.WaitGroup
	streams []*history.Stream
	seen    []atomic.Int64
}

func startWatchers(ctx context.Context, c *cluster.Cluster) *group {
	g := &group{streams: make([]*history.Stream, len(c.Members)), seen: make([]atomic.Int64, len(c.Members))}
	for i := range c.Members {
		cli := c.Client(i)
		g.wg.Add(1)
		go func() {
			defer g.wg.Done()
			g.streams[i] = follow(ctx, cli, fmt.Sprintf("at m%d", i+1), 2, &g.seen[i])
		}()
	}
	return g
}

// collect ends the watchers once each has seen the last write.
func (g *group) collect(t *testing.T, last int64, cancel func()) []*history.Stream {
	t.Helper()
	for i := range g.seen {
		err := cluster.Eventually(t, func(context.Context) error {
			if got := g.seen[i].Load(); got < last {
				return fmt.Errorf("the watcher at m%d got only to revision %d of %d", i+1, got, last)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	cancel()
	g.wg.Wait()
	return g.streams
}

// catchUp writes once more and waits until every member has applied it.
func catchUp(t *testing.T, c *cluster.Cluster) int64 {
	t.Helper()
	var rev int64
	err := cluster.Eventually(t, func(ctx context.Context) error {
		r, err := c.Client().Put(ctx, "k-last", "1")
		if err == nil {
			rev = r.Header.Revision
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Members {
		err := cluster.Eventually(t, func(ctx context.Context) error {
			st, err := m.Status(ctx)
			if err == nil && st.Header.Revision < rev {
				err = fmt.Errorf("%s is at revision %d of %d", m.Name, st.Header.Revision, rev)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return rev
}

func sameHash(t *testing.T, c *cluster.Cluster, rev int64) {
	t.Helper()
	var first uint32
	for i, m := range c.Members {
		err := cluster.Eventually(t, func(ctx context.Context) error {
			h, err := m.HashKV(ctx, rev)
			if err != nil {
				return err
			}
			if i == 0 {
				first = h.Hash
			} else if h.Hash != first {
				t.Errorf("hash of %s at revision %d is %d, that of m1 %d", m.Name, rev, h.Hash, first)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
