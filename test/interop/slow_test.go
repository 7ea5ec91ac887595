package interop

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/test/cluster"
)

// minute is how long a test's calls may take in all.
const minute = time.Minute

// TestStuckPeers: neither a member that stands still, nor something in its place that
// takes connections and never reads, holds up the others or makes them grow: what is
// queued for it is bounded.
func TestStuckPeers(t *testing.T) {
	c := cluster.New(t, cluster.Options{Size: 3})
	lead(t, c, true)
	stuck, others := c.Members[2], c.Client(0, 1)
	floods := 1
	if full() {
		floods = 4 // it must not grow from one to the next
	}
	flood(t, others, "healthy") // what it costs anyhow
	before := anon(t, c.Members[0])

	stuck.Pause()
	worst := flood(t, others, "paused")
	stuck.Resume()
	stuck.WaitHealthy()
	sameEverywhere(t, c)

	stuck.Stop()
	l, err := net.Listen("tcp", strings.TrimPrefix(stuck.PeerURL(), "http://"))
	must(t, err)
	var held []net.Conn
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			held = append(held, conn)
		}
	})
	worst = max(worst, flood(t, others, "deaf"))
	sizes := []int64{anon(t, c.Members[0]) >> 20}
	for range floods - 1 {
		worst = max(worst, flood(t, others, "deaf"))
		sizes = append(sizes, anon(t, c.Members[0])>>20)
	}
	t.Logf("the leader has %d MB before, then %v MB while nobody reads", before>>20, sizes)
	if most := slices.Max(sizes); most > before>>20+1024 {
		t.Errorf("the leader has grown to %d MB", most)
	}
	_ = l.Close()
	accepting.Wait()
	for _, conn := range held {
		_ = conn.Close()
	}
	stuck.Start()
	stuck.WaitHealthy()
	sameEverywhere(t, c)
	t.Logf("the slowest write took %s, %d connections were held", worst.Round(time.Millisecond), len(held))
	if worst > 2*time.Second {
		t.Errorf("a write took %s", worst)
	}
}

// anon is the resident memory of a process in bytes, without files that are mapped.
func anon(t *testing.T, m *cluster.Member) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.PID()))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
			must(t, err)
			return n << 10
		}
	}
	t.Fatal("no RssAnon")
	return 0
}

// flood writes 60 MB, in the long form 200, over more than the five seconds after which
// a write to a stuck connection is given up, and returns how long the slowest took.
func flood(t *testing.T, cli *clientv3.Client, key string) (worst time.Duration) {
	t.Helper()
	value := strings.Repeat("x", 1<<20)
	large := 60
	if full() {
		large = 200
	}
	began := time.Now()
	for n := 0; n < large || time.Since(began) < 6*time.Second; n++ {
		if n > large {
			value = "small"
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		at := time.Now()
		_, err := cli.Put(ctx, key, value)
		cancel()
		must(t, err)
		worst = max(worst, time.Since(at))
	}
	return worst
}
