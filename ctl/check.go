package ctl

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A check writes keys of this size and values of this size, in bytes.
const (
	checkKeyBytes   = 256
	checkValueBytes = 1024
)

func (a *app) checkCmd() *cobra.Command {
	return a.parent("check <subcommand>", "commands for checking properties of the etcd cluster",
		a.checkPerfCmd(), a.checkDatascaleCmd())
}

// checkFlags are those of both checks.
type checkFlags struct {
	load, prefix string
	compact      bool
	defrag       bool
}

// loadName turns the names of workloads into the short ones; empty if unknown.
func loadName(s string) string {
	switch s {
	case "s", "small":
		return "s"
	case "m", "medium":
		return "m"
	case "l", "large":
		return "l"
	case "xl", "xLarge":
		return "xl"
	}
	return ""
}

// checkRun is what a workload did.
type checkRun struct {
	took      time.Duration
	latencies []time.Duration // of the writes that succeeded
	errs      map[string]int
}

func (r *checkRun) rate() float64 { return float64(len(r.latencies)) / r.took.Seconds() }

// spread returns the longest latency and the standard deviation, in seconds.
func (r *checkRun) spread() (slowest, deviation float64) {
	if len(r.latencies) == 0 {
		return 0, 0
	}
	sum, squares := 0.0, 0.0
	for _, l := range r.latencies {
		s := l.Seconds()
		slowest = max(slowest, s)
		sum += s
		squares += s * s
	}
	mean := sum / float64(len(r.latencies))
	return slowest, math.Sqrt(max(squares/float64(len(r.latencies))-mean*mean, 0))
}

// workload writes random keys below a prefix.
type workload struct {
	clients []*clientv3.Client // each writes one key at a time
	prefix  string
	next    func() bool // waits for the turn of the next write; false: there is none
	bar     *progress
}

func (w *workload) run(ctx context.Context) *checkRun {
	r := &checkRun{errs: map[string]int{}}
	var mu sync.Mutex
	var all sync.WaitGroup
	value := string(make([]byte, checkValueBytes))
	start := time.Now()
	for _, c := range w.clients {
		all.Go(func() {
			for w.next() {
				began := time.Now()
				_, err := c.Put(ctx, w.key(), value)
				took := time.Since(began)
				w.bar.add(1)
				mu.Lock()
				if err != nil {
					r.errs[err.Error()]++
				} else {
					r.latencies = append(r.latencies, took)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	r.took = time.Since(start)
	return r
}

func (w *workload) key() string {
	b := make([]byte, checkKeyBytes)
	binary.LittleEndian.PutUint64(b, rand.Uint64())
	return w.prefix + string(b)
}

// checkClients opens as many connections as a workload has clients.
func (a *app) checkClients(n int) (clients []*clientv3.Client, closeAll func(), err error) {
	closeAll = func() {
		for _, c := range clients {
			c.Close()
		}
	}
	cfg, err := a.config()
	if err != nil {
		return nil, closeAll, err
	}
	for range n {
		c, err := a.open(cfg, "etcd-client")
		if err != nil {
			return clients, closeAll, err
		}
		clients = append(clients, c)
	}
	return clients, closeAll, nil
}

// refuseKeys makes sure that a check deletes only what it wrote.
func (a *app) refuseKeys(c *clientv3.Client, prefix, format string) error {
	ctx, cancel := a.timeout()
	defer cancel()
	resp, err := c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithLimit(1))
	if err != nil {
		return err
	}
	if len(resp.Kvs) > 0 {
		return fail(exitInput, fmt.Errorf(format, prefix, prefix))
	}
	return nil
}

// cleanUp deletes the keys and, if asked to, their history and the space they took.
func (a *app) cleanUp(c *clientv3.Client, f *checkFlags) error {
	ctx, cancel := a.timeout()
	defer cancel()
	resp, err := c.Delete(ctx, f.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	if f.compact {
		if err := a.compactTo(c, resp.Header.Revision); err != nil {
			return err
		}
	}
	if !f.defrag {
		return nil
	}
	for _, ep := range c.Endpoints() {
		a.printf("Defragmenting %q\n", ep)
		bar := a.progress("defragmenting " + ep)
		ctx, cancel := a.timeout()
		_, err := c.Defragment(ctx, ep)
		cancel()
		bar.stop()
		if err != nil {
			return err
		}
		a.printf("Defragmented %q\n", ep)
	}
	return nil
}

func (a *app) compactTo(c *clientv3.Client, rev int64) error {
	ctx, cancel := a.timeout()
	defer cancel()
	a.printf("Compacting with revision %d\n", rev)
	if _, err := c.Compact(ctx, rev, clientv3.WithCompactPhysical()); err != nil {
		return err
	}
	a.printf("Compacted with revision %d\n", rev)
	return nil
}

// showErrors writes what failed during a workload, and reports whether nothing did.
func (a *app) showErrors(r *checkRun) bool {
	if len(r.errs) == 0 {
		return true
	}
	a.printf("FAIL: too many errors\n")
	for text, n := range r.errs {
		a.printf("FAIL: ERROR(%s) -> %d\n", text, n)
	}
	return false
}
