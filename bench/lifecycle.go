package bench

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// lifecycleRows measure starting and stopping; each makes its own cluster.
var lifecycleRows = []struct {
	name string
	run  func(t Target, keys int) (sample, error)
}{
	{"first read of a new member", firstRead},
	{"SIGTERM with watch and lease streams open", stopWithStreams},
	{"restart with %d keys, to the first read", restart},
	{"memory after that restart", restartMemory},
}

// firstRead is from exec to the answer of the first linearizable read.
func firstRead(t Target, _ int) (sample, error) {
	c, err := newCluster(t, 1)
	if err != nil {
		return sample{}, err
	}
	defer c.remove()
	begin := time.Now()
	if _, err := c.start(); err != nil {
		return sample{}, err
	}
	return sample{took: time.Since(begin)}, nil
}

func stopWithStreams(t Target, _ int) (sample, error) {
	c, err := newCluster(t, 1)
	if err != nil {
		return sample{}, err
	}
	defer c.remove()
	if _, err := c.start(); err != nil {
		return sample{}, err
	}
	clis, closeAll, err := c.clients(1)
	if err != nil {
		return sample{}, err
	}
	defer closeAll()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	watch := clis[0].Watch(ctx, "a", clientv3.WithCreatedNotify())
	<-watch
	l, err := clis[0].Grant(ctx, 60)
	if err != nil {
		return sample{}, err
	}
	alive, err := clis[0].KeepAlive(ctx, l.ID)
	if err != nil {
		return sample{}, err
	}
	<-alive
	return sample{took: c.stop()}, nil
}

// restart fills a member, ends it cleanly, and measures from exec to the answer
// of the first linearizable read.
func restart(t Target, keys int) (sample, error) {
	s, _, err := restarted(t, keys)
	return s, err
}

func restartMemory(t Target, keys int) (sample, error) {
	_, mib, err := restarted(t, keys)
	return sample{mib: mib}, err
}

// lastRestart remembers the newest run, so that its two rows cost one fill.
var lastRestart struct {
	target string
	used   bool
	s      sample
	mib    float64
}

func restarted(t Target, keys int) (sample, float64, error) {
	if lastRestart.target == t.Name && !lastRestart.used {
		lastRestart.used = true
		return lastRestart.s, lastRestart.mib, nil
	}
	c, err := newCluster(t, 1)
	if err != nil {
		return sample{}, 0, err
	}
	defer c.remove()
	if _, err := c.start(); err != nil {
		return sample{}, 0, err
	}
	if err := fill(c, "k/", keys, value256); err != nil {
		return sample{}, 0, fmt.Errorf("fill %d keys: %w", keys, err)
	}
	c.stop()
	took, err := c.start()
	if err != nil {
		return sample{}, 0, err
	}
	lastRestart.target, lastRestart.used, lastRestart.s, lastRestart.mib = t.Name, false, sample{took: took}, c.peakMiB()
	return lastRestart.s, lastRestart.mib, nil
}
