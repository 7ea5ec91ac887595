package upgrade

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	canaryTTL     = 60                    // seconds; a killed tool's keys go with their lease
	canaryEvery   = 50 * time.Millisecond // between two calls
	canaryTimeout = 3 * time.Second       // of one call, after which a client has failed
)

// canaryPrefix is where everything that the tool writes into a cluster stands.
func canaryPrefix(cluster string) string { return "theseus-upgrade/" + cluster + "/canary/" }

// Felt is what clients would have felt, as the canary measured it: one client with the
// endpoints of all members that writes and reads all the time, and one watcher.
type Felt struct {
	Writes     int     `json:"writes"`
	Reads      int     `json:"reads"`
	Failed     int     `json:"failed"`
	LongestGap float64 `json:"longestGap"` // seconds in which no write of all went well
	Slowest    float64 `json:"slowest"`    // seconds that one request took
	Events     int     `json:"events"`     // that the watcher was sent
	Missed     int     `json:"missed"`     // acknowledged writes that the watcher was not sent
	LeasesLost int     `json:"leasesLost"`
	FirstError string  `json:"firstError,omitempty"`
}

// add puts the parts of a run that was taken up again together.
func (f *Felt) add(o Felt) {
	f.Writes, f.Reads, f.Failed = f.Writes+o.Writes, f.Reads+o.Reads, f.Failed+o.Failed
	f.Events, f.Missed, f.LeasesLost = f.Events+o.Events, f.Missed+o.Missed, f.LeasesLost+o.LeasesLost
	f.LongestGap, f.Slowest = max(f.LongestGap, o.LongestGap), max(f.Slowest, o.Slowest)
	if f.FirstError == "" {
		f.FirstError = o.FirstError
	}
}

// canary is a light load for as long as a run takes. Its streams keep off the member
// that is about to be stopped, since a stream makes real etcd take 8 s to end; its
// calls do not, since they are to feel what clients feel. A nil canary measures nothing.
type canary struct {
	inv    *Inventory
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	felt    Felt
	last    time.Time // of the last write that went well
	worst   time.Duration
	acked   map[int64]bool // writes that the watcher was not sent yet
	early   map[int64]bool // events that came before the answer of their write
	streams *clientv3.Client
	avoids  string
	err     error // why nothing can be measured
}

func (r *run) startCanary() {
	if r.o.NoCanary || r.o.wire != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &canary{inv: r.o.Inventory, cancel: cancel, acked: map[int64]bool{}, early: map[int64]bool{}}
	r.canary = c
	c.wg.Go(func() { c.run(ctx) })
}

// run connects, and keeps the writer, the reader and the watcher going until ctx ends.
func (c *canary) run(ctx context.Context) {
	calls, err := c.inv.Client()
	if err != nil {
		c.fail(err)
		return
	}
	defer func() { _ = calls.Close() }()
	streams, err := c.inv.Client()
	if err != nil {
		c.fail(err)
		return
	}
	defer func() { _ = streams.Close() }()
	c.mu.Lock()
	c.streams = streams
	c.point()
	c.mu.Unlock()
	key := canaryPrefix(c.inv.Cluster) + "load"
	from, lease, err := c.first(ctx, calls, key)
	if err != nil {
		c.fail(err)
		return
	}
	var wg sync.WaitGroup
	wrote := make(chan struct{}) // closed when no write is in flight any more
	wg.Go(func() { defer close(wrote); c.write(ctx, calls, key, lease) })
	wg.Go(func() { c.read(ctx, calls, key) })
	wg.Go(func() { c.watch(ctx, streams, key, from, wrote) })
	wg.Go(func() { c.keep(ctx, streams, lease) })
	wg.Wait()
	c.mu.Lock()
	c.streams = nil
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), canaryTimeout)
	defer cancel()
	_, _ = calls.Delete(ctx, canaryPrefix(c.inv.Cluster), clientv3.WithPrefix()) // else they go with the lease
	_, _ = calls.Revoke(ctx, lease)
}

func (c *canary) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// first makes the lease and the first write, from whose revision the watcher starts.
func (c *canary) first(ctx context.Context, cli *clientv3.Client, key string) (int64, clientv3.LeaseID, error) {
	ctx, cancel := context.WithTimeout(ctx, touchTimeout)
	defer cancel()
	lease, err := cli.Grant(ctx, canaryTTL)
	if err != nil {
		return 0, 0, err
	}
	put, err := cli.Put(ctx, key, "0", clientv3.WithLease(lease.ID))
	if err != nil {
		return 0, 0, err
	}
	return put.Header.Revision + 1, lease.ID, nil
}

// canaryFlight bounds the calls that are on their way; above it a beat is left out.
const canaryFlight = 100

// beat calls do again and again until ctx ends. A call that hangs does not hold the next
// one up: one request that is lost is a failed request, and no gap for everybody.
func beat(ctx context.Context, do func(ctx context.Context, n int)) {
	t := time.NewTicker(canaryEvery)
	defer t.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	flight := make(chan struct{}, canaryFlight)
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		select {
		case flight <- struct{}{}:
		default:
			continue
		}
		wg.Go(func() {
			defer func() { <-flight }()
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), canaryTimeout)
			defer cancel()
			do(ctx, n)
		})
	}
}

// took notes how long one request took. The caller holds the lock.
func (c *canary) took(begin time.Time) {
	c.felt.Slowest = max(c.felt.Slowest, time.Since(begin).Round(time.Millisecond).Seconds())
}

func (c *canary) write(ctx context.Context, cli *clientv3.Client, key string, lease clientv3.LeaseID) {
	c.mu.Lock()
	c.last = time.Now()
	c.mu.Unlock()
	beat(ctx, func(ctx context.Context, n int) {
		begin := time.Now()
		put, err := cli.Put(ctx, key, fmt.Sprint(n), clientv3.WithLease(lease))
		c.mu.Lock()
		defer c.mu.Unlock()
		c.took(begin)
		if c.felt.Writes++; err != nil {
			c.failed("write", err)
			return
		}
		gap := time.Since(c.last)
		c.last, c.worst = time.Now(), max(c.worst, gap)
		c.felt.LongestGap = max(c.felt.LongestGap, gap.Round(time.Millisecond).Seconds())
		if rev := put.Header.Revision; c.early[rev] {
			delete(c.early, rev)
		} else {
			c.acked[rev] = true
		}
	})
}

func (c *canary) failed(what string, err error) {
	c.felt.Failed++
	if c.felt.FirstError == "" {
		c.felt.FirstError = what + ": " + oneLine(err)
	}
}

func (c *canary) read(ctx context.Context, cli *clientv3.Client, key string) {
	beat(ctx, func(ctx context.Context, _ int) {
		begin := time.Now()
		_, err := cli.Get(ctx, key)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.took(begin)
		if c.felt.Reads++; err != nil {
			c.failed("read", err)
		}
	})
}

// watch follows the key from a revision. It goes on a little after ctx has ended, so
// that the last writes are not called missed.
func (c *canary) watch(ctx context.Context, cli *clientv3.Client, key string, from int64, wrote <-chan struct{}) {
	wctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stopAfter := context.AfterFunc(ctx, func() {
		defer cancel()
		<-wrote // the write in flight may be acknowledged only now
		t := time.NewTicker(canaryEvery)
		defer t.Stop()
		for end := time.Now().Add(canaryTimeout); time.Now().Before(end) && c.pending() > 0; {
			<-t.C
		}
	})
	defer stopAfter()
	for wctx.Err() == nil {
		for resp := range cli.Watch(clientv3.WithRequireLeader(wctx), key, clientv3.WithRev(from)) {
			c.mu.Lock()
			for _, e := range resp.Events {
				rev := e.Kv.ModRevision
				c.felt.Events++
				from = rev + 1
				if c.acked[rev] {
					delete(c.acked, rev)
				} else {
					c.early[rev] = true
				}
			}
			c.mu.Unlock()
			from = max(from, resp.CompactRevision)
		}
	}
}

func (c *canary) pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.acked)
}

// keep keeps the lease alive.
func (c *canary) keep(ctx context.Context, cli *clientv3.Client, lease clientv3.LeaseID) {
	for ctx.Err() == nil {
		alive, err := cli.KeepAlive(ctx, lease)
		if err != nil {
			return
		}
		for range alive {
		}
		if ctx.Err() == nil {
			c.mu.Lock()
			c.felt.LeasesLost++
			c.mu.Unlock()
			return
		}
	}
}

// avoid moves the streams away from a member that is about to be stopped; the empty name
// lets them go anywhere again.
func (c *canary) avoid(name string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.avoids = name
	c.point()
}

func (c *canary) point() {
	if c.streams == nil {
		return
	}
	var eps []string
	for _, m := range c.inv.Members {
		if m.Name != c.avoids || len(c.inv.Members) == 1 {
			eps = append(eps, m.Endpoint)
		}
	}
	if !slices.Equal(eps, c.streams.Endpoints()) {
		c.streams.SetEndpoints(eps...)
	}
}

// stalled says how long writes stood still since it was asked last, if that is longer
// than the limit. One or two members cannot be moved without a gap.
func (c *canary) stalled(limit time.Duration) string {
	if c == nil || len(c.inv.Members) < 3 {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	worst := c.worst
	c.worst = 0
	if worst <= limit {
		return ""
	}
	return short(worst)
}

// now is one line for the table.
func (c *canary) now() string {
	if c == nil {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return "clients: cannot be measured: " + oneLine(c.err)
	}
	f := c.felt
	return fmt.Sprintf("clients: %d requests, %d failed, longest gap %s", f.Writes+f.Reads, f.Failed, time.Duration(f.LongestGap*float64(time.Second)).Round(time.Millisecond))
}

// end stops the load, removes its keys and waits.
func (c *canary) end() {
	if c == nil {
		return
	}
	c.cancel()
	c.wg.Wait()
}

// result is what was measured, after end.
func (c *canary) result() Felt {
	if c == nil {
		return Felt{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.felt
	f.Missed = len(c.acked)
	if c.err != nil && f.FirstError == "" {
		f.FirstError = strings.TrimSpace("not measured: " + oneLine(c.err))
	}
	return f
}
