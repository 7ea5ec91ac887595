package faults

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"theseus/test/cluster"
	"theseus/test/history"
)

// TestOnePass replaces the members of a real cluster by Theseus one by one, on
// their data directories, under load from a client with all endpoints. Nothing may
// be lost or reordered, watchers miss nothing, and the cluster ends on the newest
// version, however old it was.
func TestOnePass(t *testing.T) {
	for _, minor := range []string{"3.3", "3.4", "3.5", "3.6", "3.7"} {
		t.Run(minor, func(t *testing.T) {
			c := cluster.New(t, cluster.Options{Size: 3, Binary: cluster.Etcd(t, minor)})
			ours := cluster.Theseus(t)
			l := &load{rec: history.NewRecorder(), keys: 5, stop: make(chan struct{}), pause: 2 * time.Millisecond}
			for i := range 4 {
				l.start(i, 1, c.Client())
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			watchers := startWatchers(ctx, c)
			l.progress(t, 50)
			for i, m := range c.Members {
				took := m.Stop()
				m.Binary = ours
				m.Start()
				m.WaitHealthy()
				t.Logf("%s stopped in %s, replaced; leader is now m%d", m.Name, took, c.Leader()+1)
				l.progress(t, 100)
				if i < 2 && !strings.Contains(version(t, m), `"etcdcluster":"`+minor) {
					t.Errorf("the cluster version moved before the last member: %s", version(t, m))
				}
			}
			newest(t, c)
			l.progress(t, 50)
			l.end()
			last := catchUp(t, c)
			streams := watchers.collect(t, last, cancel)
			t.Logf("%d calls answered, %d without an answer, last revision %d", l.done.Load(), l.unknown.Load(), last)
			if n := l.unknown.Load(); n > 0 {
				t.Logf("%d requests failed", n)
			}
			if err := l.rec.Linearizable(time.Minute); err != nil {
				t.Error(err)
			}
			if err := history.CheckWatch(streams, l.rec.Acknowledged()); err != nil {
				t.Error(err)
			}
			sameHash(t, c, last)
		})
	}
}

func version(t *testing.T, m *cluster.Member) string {
	t.Helper()
	v, err := m.HTTP("/version")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// newest waits until every member says that the cluster is at the newest version
// and has its storage there.
func newest(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	err := cluster.Eventually(t, func(context.Context) error {
		for _, m := range c.Members {
			if v := version(t, m); !strings.Contains(v, `"etcdcluster":"3.7.0","storage":"3.7.0"`) {
				return fmt.Errorf("%s: %s", m.Name, v)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
