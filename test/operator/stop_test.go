package operator

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/test/cluster"
)

// TestStopFailsNoRequest stops each member of three in turn, the leader too, while
// a client with all endpoints puts and gets and a watch and a lease are open: no
// request may fail that another member could have served.
func TestStopFailsNoRequest(t *testing.T) {
	c := cluster.New(t, cluster.Options{Size: 3})
	cli := c.Client()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	watched := cli.Watch(ctx, "k", clientv3.WithPrefix())
	l, err := cli.Grant(ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cli.KeepAlive(ctx, l.ID); err != nil {
		t.Fatal(err)
	}
	var puts atomic.Int64
	var failed sync.Map
	var wg, watching sync.WaitGroup
	stop := make(chan struct{})
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				one, done := context.WithTimeout(ctx, 5*time.Second)
				if _, err := cli.Put(one, fmt.Sprintf("k%d", w), fmt.Sprint(i)); err != nil {
					failed.Store(fmt.Sprintf("put %d of worker %d", i, w), err)
				} else {
					puts.Add(1)
				}
				if _, err := cli.Get(one, fmt.Sprintf("k%d", w)); err != nil {
					failed.Store(fmt.Sprintf("get %d of worker %d", i, w), err)
				}
				done()
			}
		})
	}
	var seen atomic.Int64
	watching.Go(func() {
		for r := range watched {
			seen.Add(int64(len(r.Events)))
		}
	})
	for range 2 {
		for _, i := range []int{(c.Leader() + 1) % 3, c.Leader()} {
			m := c.Members[i]
			t.Logf("%s stopped in %s", m.Name, m.Stop())
			m.Start()
			m.WaitHealthy()
		}
	}
	close(stop)
	wg.Wait()
	err = cluster.Eventually(t, func(context.Context) error {
		if seen.Load() < puts.Load() {
			return fmt.Errorf("the watch saw %d events of %d", seen.Load(), puts.Load())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	cancel()
	watching.Wait()
	failed.Range(func(what, err any) bool {
		t.Errorf("%s: %v", what, err)
		return true
	})
	t.Logf("%d puts", puts.Load())
}

// TestEndsBySignal: supervisors see the same status as from etcd.
func TestEndsBySignal(t *testing.T) {
	c := cluster.New(t, cluster.Options{})
	m := c.Members[0]
	m.Stop()
	if s, ok := m.ExitStatus().(syscall.WaitStatus); !ok || !s.Signaled() || s.Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v, want signal SIGTERM", m.ExitStatus())
	}
}
