package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/test/cluster"
)

// writer puts numbered keys, one after another, until it is stopped. What was
// acknowledged must be there at the end.
type writer struct {
	t      *testing.T
	cli    *clientv3.Client
	prefix string
	stop   context.CancelFunc
	wg     sync.WaitGroup
	acked  int // keys prefix/0 … prefix/acked-1, less those that failed
	failed map[int]error
}

func startWriter(t *testing.T, c *cluster.Cluster, prefix string) *writer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{t: t, cli: c.Client(), prefix: prefix, stop: cancel, failed: map[int]error{}}
	w.wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ; ; w.acked++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			call, done := context.WithTimeout(context.Background(), 5*time.Second)
			_, err := w.cli.Put(call, fmt.Sprintf("%s/%d", prefix, w.acked), "x")
			done()
			if err != nil {
				w.failed[w.acked] = err
			}
		}
	})
	t.Cleanup(w.end)
	return w
}

func (w *writer) end() { w.stop(); w.wg.Wait() }

// check reads back, from every member, what was acknowledged.
func (w *writer) check(c *cluster.Cluster) {
	w.t.Helper()
	w.end()
	for i := range c.Members {
		r, err := c.Client(i).Get(context.Background(), w.prefix+"/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		must(w.t, err)
		have := map[string]bool{}
		for _, kv := range r.Kvs {
			have[string(kv.Key)] = true
		}
		for n := range w.acked {
			if w.failed[n] == nil && !have[fmt.Sprintf("%s/%d", w.prefix, n)] {
				w.t.Errorf("m%d: acknowledged write %d of %d is lost", i+1, n, w.acked)
			}
		}
	}
	w.t.Logf("%d writes, %d failed %v", w.acked, len(w.failed), w.failed)
}

// versions is what /version shows.
type versions struct{ EtcdServer, EtcdCluster, Storage string }

func versionsOf(m *cluster.Member) (v versions, err error) {
	body, err := m.HTTP("/version")
	if err == nil {
		err = json.Unmarshal([]byte(body), &v)
	}
	return v, err
}

// waitVersions waits until every member shows the cluster and storage version;
// members of 3.5 and older show no storage.
func waitVersions(t *testing.T, c *cluster.Cluster, minor string) {
	t.Helper()
	err := cluster.Eventually(t, func(context.Context) error {
		for _, m := range c.Members {
			v, err := versionsOf(m)
			if err != nil {
				return err
			}
			if v.EtcdCluster != minor+".0" || v.Storage != minor+".0" && m.Binary.Minor() >= 6 {
				return fmt.Errorf("%s: %+v, want cluster and storage %s", m.Name, v, minor)
			}
		}
		return nil
	})
	must(t, err)
}

// downgradeEnabled asks the peer port.
func downgradeEnabled(t *testing.T, m *cluster.Member) string {
	t.Helper()
	resp, err := http.Get(m.PeerURL() + "/downgrade/enabled")
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return strings.TrimSpace(string(b))
}

func downgrade(cli *clientv3.Client, action clientv3.DowngradeAction, target string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := cli.Downgrade(ctx, action, target)
	if err != nil {
		return "", err
	}
	return r.Version, nil
}

func replace(t *testing.T, m *cluster.Member, b cluster.Binary) {
	t.Helper()
	m.Stop()
	m.Binary, m.Args = b, nil
	m.Start()
	m.WaitHealthy()
}

// TestWayBack lowers the version of a cluster of Theseus, under load, in one step
// or several, and gives its directories to the real etcd of that version, one by
// one; and takes them over again at the end.
func TestWayBack(t *testing.T) {
	for _, tt := range []struct {
		name  string
		steps []string
	}{
		{"3.7 to 3.6", []string{"3.6"}},
		{"3.7 to 3.5", []string{"3.5"}},
		{"3.7 to 3.4", []string{"3.4"}},
		{"3.7 to 3.6 to 3.5 to 3.4", []string{"3.6", "3.5", "3.4"}},
	} {
		if !full() && len(tt.steps) == 1 {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target := tt.steps[len(tt.steps)-1]
			real := cluster.Etcd(t, target)
			c := cluster.New(t, cluster.Options{Size: 3})
			ours := c.Members[0].Binary
			waitVersions(t, c, "3.7")
			furnish(t, c.Client(), "before")
			w := startWriter(t, c, "load")
			cli := c.Client()
			for _, step := range tt.steps {
				lower(t, c, cli, step)
			}
			furnish(t, c.Client(), "lowered")
			c.Members[1].Kill() // whoever dies now must come back as what it was
			c.Members[1].Start()
			c.Members[1].WaitHealthy()
			waitVersions(t, c, target)
			for i, m := range c.Members {
				replace(t, m, real)
				furnish(t, c.Client(i), fmt.Sprintf("mixed-%d", i))
			}
			w.check(c)
			sameEverywhere(t, c)
			if target > "3.4" {
				must(t, cluster.Eventually(t, func(context.Context) error {
					if got := downgradeEnabled(t, c.Members[0]); got != "false" {
						return fmt.Errorf("the downgrade does not end: %s", got)
					}
					return nil
				}))
			}
			for _, m := range c.Members {
				replace(t, m, ours)
			}
			waitVersions(t, c, "3.7")
			sameEverywhere(t, c)
		})
	}
}

// lower asks for a lower version, with the mistakes that there are.
func lower(t *testing.T, c *cluster.Cluster, cli *clientv3.Client, step string) {
	t.Helper()
	for target, want := range map[string]string{
		"3.8": "invalid downgrade target version", "3.3": "invalid downgrade target version",
		"x": "wrong downgrade target version format",
	} {
		if _, err := downgrade(cli, clientv3.DowngradeValidate, target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("validate %s: %v, want %s", target, err, want)
		}
	}
	before, err := versionsOf(c.Members[0])
	must(t, err)
	for _, action := range []clientv3.DowngradeAction{clientv3.DowngradeValidate, clientv3.DowngradeEnable} {
		v, err := downgrade(cli, action, step)
		must(t, err)
		if v+".0" != before.EtcdCluster {
			t.Errorf("downgrade answers version %s, want that of the cluster, %s", v, before.EtcdCluster)
		}
	}
	for _, m := range c.Members {
		if got := downgradeEnabled(t, m); got != "true" {
			t.Errorf("/downgrade/enabled of %s: %s", m.Name, got)
		}
	}
	waitVersions(t, c, step)
	for _, m := range c.Members {
		must(t, cluster.Eventually(t, func(context.Context) error {
			for _, line := range []string{"Cluster version downgrade detected, forcing snapshot", "The server is ready to downgrade\""} {
				if !strings.Contains(m.Log(), line) {
					return fmt.Errorf("%s does not log %s", m.Name, line)
				}
			}
			return nil
		}))
	}
}

// TestDowngradeCancel: a downgrade that is ended before anybody follows it leads back
// up, from however far down.
func TestDowngradeCancel(t *testing.T) {
	for _, target := range cells(t, "3.6", "3.4") {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			c := cluster.New(t, cluster.Options{Size: 3})
			waitVersions(t, c, "3.7")
			cli := c.Client()
			lower(t, c, cli, target)
			if _, err := downgrade(cli, clientv3.DowngradeEnable, target); err == nil {
				t.Error("a second downgrade to the same version was accepted")
			}
			furnish(t, cli, "low")
			_, err := downgrade(cli, clientv3.DowngradeCancel, "")
			must(t, err)
			waitVersions(t, c, "3.7")
			if got := downgradeEnabled(t, c.Members[0]); got != "false" {
				t.Errorf("/downgrade/enabled: %s", got)
			}
			sameEverywhere(t, c)
			c.Members[0].Kill()
			c.Members[0].Start()
			c.Members[0].WaitHealthy()
			sameEverywhere(t, c)
		})
	}
}

// TestEtcdsDowngrade is real etcd's own downgrade from 3.7 to 3.5 in a cluster that
// has one member of Theseus, as leader and as follower.
func TestEtcdsDowngrade(t *testing.T) {
	onlyFull(t)
	for _, leads := range []bool{true, false} {
		t.Run(fmt.Sprintf("theseus leads %v", leads), func(t *testing.T) {
			ours := cluster.Theseus(t)
			etcd := cluster.Etcd(t, "3.7")
			c := cluster.New(t, cluster.Options{Binaries: []cluster.Binary{ours, etcd, etcd}})
			waitVersions(t, c, "3.7")
			w := startWriter(t, c, "load")
			for _, step := range []string{"3.6", "3.5"} {
				lead(t, c, leads)
				// the API is etcd's as long as there is etcd: one minor at a time
				if _, err := downgrade(c.Client(0), clientv3.DowngradeValidate, "3.4"); err == nil {
					t.Error("Theseus lets a cluster with members of etcd go down to 3.4")
				}
				via := 1
				if step == "3.5" {
					via = 0
				}
				_, err := downgrade(c.Client(via), clientv3.DowngradeEnable, step)
				must(t, err)
				waitVersions(t, c, step)
				for _, i := range []int{1, 2} {
					replace(t, c.Members[i], cluster.Etcd(t, step))
				}
				lead(t, c, leads)
				must(t, cluster.Eventually(t, func(context.Context) error {
					if got := downgradeEnabled(t, c.Members[0]); got != "false" {
						return fmt.Errorf("the downgrade to %s does not end: %s", step, got)
					}
					return nil
				}))
				waitVersions(t, c, step)
			}
			furnish(t, c.Client(0), "through-theseus")
			replace(t, c.Members[0], cluster.Etcd(t, "3.5"))
			w.check(c)
			sameEverywhere(t, c)
		})
	}
}

// lead moves leadership to the first member, or away from it.
func lead(t *testing.T, c *cluster.Cluster, first bool) {
	t.Helper()
	must(t, cluster.Eventually(t, func(ctx context.Context) error {
		now := c.Leader()
		if (now == 0) == first {
			return nil
		}
		to := c.Members[0]
		if !first {
			to = c.Members[1]
		}
		if _, err := c.Client(now).MoveLeader(ctx, to.ID()); err != nil {
			return err
		}
		return fmt.Errorf("leadership does not move to %s", to.Name)
	}))
}
