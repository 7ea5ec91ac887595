package interop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/test/cluster"
)

// one3 is a cluster of Theseus and two etcd of a minor, born together.
func one3(t *testing.T, minor string, o cluster.Options) *cluster.Cluster {
	t.Helper()
	etcd := cluster.Etcd(t, minor)
	o.Binaries = []cluster.Binary{cluster.Theseus(t), etcd, etcd}
	return cluster.New(t, o)
}

// alive fails the test if a member has ended.
func alive(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for _, m := range c.Members {
		if !m.Running() {
			t.Fatalf("%s (%s) ended:\n%s", m.Name, m.Binary.Name, m.LogTail(20))
		}
	}
}

// TestTrapFailingTxn: etcd up to 3.6 disagrees with itself about a txn that writes and
// then reads a compacted revision; we are with those that did not propose it, and as
// proposer refuse it (trap 1).
func TestTrapFailingTxn(t *testing.T) {
	for _, minor := range cells(t, "3.5", "3.6", "3.7") {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			c := one3(t, minor, cluster.Options{})
			ctx, cancel := within(30 * time.Second)
			defer cancel()
			for range 6 {
				_, err := c.Client(0).Put(ctx, "a", "x")
				must(t, err)
			}
			_, err := c.Client(0).Compact(ctx, 4)
			must(t, err)
			_, err = c.Client(0).Txn(ctx).Then(clientv3.OpPut("z", "1"), clientv3.OpGet("a", clientv3.WithRev(2))).Commit()
			if !errors.Is(err, rpctypes.ErrCompacted) {
				t.Errorf("through Theseus: %v", err)
			}
			sameEverywhere(t, c)
			_, err = c.Client(1).Txn(ctx).Then(clientv3.OpPut("z", "1"), clientv3.OpGet("a", clientv3.WithRev(2))).Commit()
			if err == nil {
				t.Error("etcd accepts it")
			}
			others := *c
			others.Members = []*cluster.Member{c.Members[0], c.Members[2]}
			sameEverywhere(t, &others)
		})
	}
}

// TestTrapTombstones: compaction at exactly a delete, restart of all, and again one
// revision on; with another key left and with none (traps 2 and 3).
func TestTrapTombstones(t *testing.T) {
	for _, minor := range cells(t, "3.3", "3.4", "3.5", "3.6", "3.7") {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			c := one3(t, minor, cluster.Options{})
			for round, others := range []bool{true, false} {
				at := newest0(t, c, others)
				for i := range 2 {
					_, err := c.Client(i).Compact(context.Background(), at+int64(i), clientv3.WithCompactPhysical())
					if others || i == 0 {
						must(t, err)
					}
					hashAt(t, c, 0)
					for _, m := range c.Members {
						m.Kill()
					}
					for _, m := range c.Members {
						m.Start()
					}
					c.WaitHealthy()
					hashAt(t, c, 0)
					if minor >= "3.5" && (others || i == 0) {
						// At the compacted revision older ones do not answer, and newer ones
						// with what they had noted before the compaction, until they restart.
						hashAt(t, c, at+int64(i))
					}
				}
				for i := range c.Members {
					before, err := c.Client(i).Get(context.Background(), "next")
					must(t, err)
					if before.Header.Revision < at {
						t.Errorf("round %d: m%d is at revision %d, before the compacted %d", round, i+1, before.Header.Revision, at)
					}
					r, err := c.Client(i).Put(context.Background(), "next", "x")
					must(t, err)
					if r.Header.Revision != before.Header.Revision+1 {
						t.Errorf("round %d: m%d: a put after revision %d gets %d", round, i+1, before.Header.Revision, r.Header.Revision)
					}
				}
				sameEverywhere(t, c)
			}
		})
	}
}

// newest0 deletes a key, and puts another one afterwards if others; it returns the
// revision of the delete.
func newest0(t *testing.T, c *cluster.Cluster, others bool) int64 {
	t.Helper()
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	cli := c.Client(0)
	_, err := cli.Delete(ctx, "", clientv3.WithPrefix())
	must(t, err)
	_, err = cli.Put(ctx, "a", "1")
	must(t, err)
	r, err := cli.Delete(ctx, "a")
	must(t, err)
	if others {
		_, err = cli.Put(ctx, "b", "1")
		must(t, err)
		_, err = cli.Put(ctx, "b", "2")
		must(t, err)
	}
	return r.Header.Revision
}

// hashAt compares the members' hashes at one revision.
func hashAt(t *testing.T, c *cluster.Cluster, rev int64) {
	t.Helper()
	must(t, cluster.Eventually(t, func(ctx context.Context) error {
		var first *pb.HashKVResponse
		for i, m := range c.Members {
			h, err := m.HashKV(ctx, rev)
			if err != nil {
				return fmt.Errorf("hash of m%d at %d: %w", i+1, rev, err)
			}
			if i == 0 {
				first = h
			}
			if rev != 0 && h.CompactRevision != first.CompactRevision {
				continue // one has done the compaction again after its start, and answers from before it
			}
			if h.Hash != first.Hash || h.CompactRevision != first.CompactRevision {
				return fmt.Errorf("hash of m%d at %d: %v, of m1 %v", i+1, rev, h, first)
			}
		}
		return nil
	}))
}

// TestTrapEveryRequest makes every request there is at Theseus while its two fellows are
// old: they must live and agree (trap 5).
func TestTrapEveryRequest(t *testing.T) {
	for _, minor := range cells(t, "3.3", "3.4", "3.5", "3.6") {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			c := one3(t, minor, cluster.Options{})
			cli, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(0), MaxCallSendMsgSize: 4 << 20})
			must(t, err)
			defer func() { _ = cli.Close() }()
			ctx, cancel := within(2 * time.Minute)
			defer cancel()
			for _, q := range script() {
				answer := ask1(ctx, cli.ActiveConnection(), q)
				if strings.HasPrefix(answer, "DeadlineExceeded") || strings.Contains(answer, "timed out") {
					t.Errorf("%s: %s", describe(q), answer)
				}
				for _, m := range c.Members {
					if !m.Running() {
						t.Fatalf("%s (%s) ended after %s: %s\n%s", m.Name, m.Binary.Name, describe(q), answer, m.LogTail(20))
					}
				}
			}
			root, err := (&mixed{Cluster: c, t: t}).login(1, "root", "p")
			must(t, err)
			_, err = root.UserAddWithOptions(ctx, "nopass", "", &clientv3.UserAddOptions{NoPassword: true})
			t.Logf("user without password through etcd: %v", err)
			_, err = root.AuthDisable(ctx)
			must(t, err)
			for _, action := range []clientv3.DowngradeAction{clientv3.DowngradeValidate, clientv3.DowngradeEnable, clientv3.DowngradeCancel} {
				v, err := cli.Downgrade(ctx, action, "3."+fmt.Sprint(minor[2]-'0'-1))
				t.Logf("downgrade action %d: %v, %v", action, v, err)
			}
			_, err = cli.UserAddWithOptions(ctx, "nopass2", "", &clientv3.UserAddOptions{NoPassword: true})
			if (err == nil) != (minor > "3.3") {
				t.Errorf("user without password beside %s: %v", minor, err)
			}
			must(t, cluster.Eventually(t, func(ctx context.Context) error { // for 5 s it is unhealthy
				if _, err := cli.MemberAddAsLearner(ctx, []string{"http://127.0.0.1:1"}); (err == nil) != (minor > "3.3") {
					return fmt.Errorf("learner beside %s: %w", minor, err)
				}
				return nil
			}))
			alive(t, c)
			for i, m := range c.Members { // what is in the log is read again
				m.Kill()
				m.Start()
				m.WaitHealthy()
				_, err := c.Client(i).Put(ctx, "after", "x")
				must(t, err)
			}
			sameEverywhere(t, c)
			alive(t, c)
		})
	}
}

// TestTrapReads: linearizable reads at every member and through all, while leadership
// moves; none may be stale, hang, or end a member (trap 14).
func TestTrapReads(t *testing.T) {
	for _, minor := range cells(t, "3.3", "3.4", "3.5", "3.6", "3.7") {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			c := one3(t, minor, cluster.Options{})
			var done atomic.Int64
			var failed atomic.Int64
			want := int64(2000)
			if full() {
				want = 10_000
			}
			var wg sync.WaitGroup
			stop := make(chan struct{})
			for i := range c.Members {
				cli := c.Client(i)
				wg.Go(func() {
					for n := 0; ; n++ {
						select {
						case <-stop:
							return
						default:
						}
						ctx, cancel := within(10 * time.Second)
						p, err := cli.Put(ctx, fmt.Sprintf("r%d", i), fmt.Sprint(n))
						if err == nil {
							var g *clientv3.GetResponse
							if g, err = cli.Get(ctx, fmt.Sprintf("r%d", i)); err == nil && g.Header.Revision < p.Header.Revision {
								t.Errorf("m%d: stale read: revision %d after a write at %d", i+1, g.Header.Revision, p.Header.Revision)
							}
						}
						for range 10 {
							if _, err = cli.Get(ctx, "r0"); err == nil {
								done.Add(1)
							}
						}
						cancel()
						if err != nil {
							failed.Add(1)
							if errors.Is(err, context.DeadlineExceeded) {
								t.Errorf("m%d: a read hangs: %v", i+1, err)
							}
						}
					}
				})
			}
			for round := 0; done.Load() < want; round++ {
				lead(t, c, round%2 == 0)
				begun := done.Load()
				must(t, cluster.Eventually(t, func(context.Context) error {
					if done.Load() < begun+want/8 {
						return errors.New("no reads are answered")
					}
					return nil
				}))
			}
			close(stop)
			wg.Wait()
			alive(t, c)
			sameEverywhere(t, c)
			t.Logf("%d reads, %d failed", done.Load(), failed.Load())
		})
	}
}

// TestTrapRestarts restarts Theseus many times beside two etcd, which must never be told
// that they were removed (trap 12).
func TestTrapRestarts(t *testing.T) {
	times := 10
	if full() {
		times = 200
	}
	for _, minor := range []string{"3.4", "3.7"} {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			c := one3(t, minor, cluster.Options{})
			for i := range times {
				if i%2 == 0 {
					c.Members[0].Kill()
				} else {
					c.Members[0].Stop()
				}
				c.Members[0].Start()
				c.Members[0].WaitHealthy()
				alive(t, c)
			}
			sameEverywhere(t, c)
		})
	}
}

// TestTrapQuota: one member is full before the others; all must refuse writes, and all
// take them again (trap 18).
func TestTrapQuota(t *testing.T) {
	for _, minor := range cells(t, "3.4", "3.7") {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			c := one3(t, minor, cluster.Options{MemberOf: func(i int) []string {
				if i == 1 {
					return []string{"--quota-backend-bytes", fmt.Sprint(16 << 20)}
				}
				return []string{"--quota-backend-bytes", fmt.Sprint(64 << 20)}
			}})
			cli, ctx := c.Client(0), context.Background()
			value := strings.Repeat("v", 1<<20)
			var err error
			for i := 0; err == nil && i < 40; i++ {
				_, err = cli.Put(ctx, "big", value)
			}
			must(t, cluster.Eventually(t, func(ctx context.Context) error {
				for i := range c.Members {
					if _, err := c.Client(i).Put(ctx, "x", "y"); !errors.Is(err, rpctypes.ErrNoSpace) {
						return fmt.Errorf("m%d takes writes: %v", i+1, err)
					}
				}
				return nil
			}))
			c.Members[0].Kill()
			c.Members[0].Start()
			must(t, cluster.Eventually(t, func(ctx context.Context) error {
				if _, err := cli.Put(ctx, "x", "y"); !errors.Is(err, rpctypes.ErrNoSpace) {
					return fmt.Errorf("after its restart m1 takes writes: %v", err)
				}
				return nil
			}))
			r, err := cli.Delete(ctx, "big")
			must(t, err)
			_, err = cli.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical())
			must(t, err)
			for _, m := range c.Members {
				_, err := cli.Defragment(ctx, m.ClientURL())
				must(t, err)
			}
			alarms, err := c.Client(2).AlarmList(ctx)
			must(t, err)
			if len(alarms.Alarms) == 0 {
				t.Error("there is no alarm")
			}
			_, err = cli.AlarmDisarm(ctx, &clientv3.AlarmMember{})
			must(t, err)
			for i := range c.Members {
				_, err := c.Client(i).Put(ctx, "x", "y")
				must(t, err)
			}
			sameEverywhere(t, c)
		})
	}
}

// TestTrapIDs: a cluster that is born mixed, with a token, has the ids that the flags
// make; members added through either are known to both; one that was removed stops by
// itself, again and again, and its address can be used once more (trap 20).
func TestTrapIDs(t *testing.T) {
	for _, minor := range cells(t, "3.3", "3.5", "3.7") {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			c := one3(t, minor, cluster.Options{Token: "a token"})
			m := &mixed{Cluster: c, t: t, minor: minor, etcd: cluster.Etcd(t, minor), ours: cluster.Theseus(t)}
			for i, one := range c.Members {
				st, err := one.Status(context.Background())
				must(t, err)
				first, err := c.Members[0].Status(context.Background())
				must(t, err)
				if st.Header.MemberId != one.ID() || st.Header.ClusterId != first.Header.ClusterId {
					t.Errorf("m%d: member %x of cluster %x, want %x of %x", i+1, st.Header.MemberId, st.Header.ClusterId, one.ID(), first.Header.ClusterId)
				}
			}
			for via, b := range []cluster.Binary{m.ours, m.etcd} {
				one := m.join(b, false)
				one.WaitHealthy()
				m.sameMembers()
				m.remove(via)
				one.Start()
				_ = one.WaitExit()
				if one.Running() {
					t.Errorf("%s (%s) runs though it was removed", one.Name, b.Name)
				}
			}
			sameEverywhere(t, c)
			alive(t, c)
		})
	}
}

// TestTrapBump: a backup restored with a bumped revision, by etcd's tool, is served as
// etcd serves it (trap 24).
func TestTrapBump(t *testing.T) {
	for _, minor := range cells(t, "3.5", "3.6", "3.7") {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			etcd, utl := cluster.Etcd(t, minor), cluster.Peer(t, minor, "etcdutl")
			from := cluster.New(t, cluster.Options{Binary: etcd})
			furnish(t, from.Client(), "backup")
			file := filepath.Join(t.TempDir(), "backup.db")
			run(t, cluster.Peer(t, minor, "etcdctl"), "--endpoints", from.Members[0].ClientURL(), "snapshot", "save", file)

			c := cluster.Prepare(t, cluster.Options{})
			m := c.Members[0]
			run(t, utl, "snapshot", "restore", file, "--data-dir", m.Dir, "--name", m.Name, "--initial-cluster", c.InitialCluster(),
				"--initial-advertise-peer-urls", m.PeerURL(), "--bump-revision", "1000000", "--mark-compacted")
			keep := m.Dir + ".copy"
			run(t, "cp", "-r", m.Dir, keep)
			ours := m.Binary
			m.Binary = etcd
			m.Start()
			m.WaitHealthy()
			want := bumped(t, m)
			m.Stop()
			must(t, os.RemoveAll(m.Dir))
			must(t, os.Rename(keep, m.Dir))
			m.Binary = ours
			m.Start()
			m.WaitHealthy()
			if got := bumped(t, m); got != want {
				t.Errorf("Theseus on it: %s\netcd on it:    %s", got, want)
			}
		})
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// bumped is what clients see of the revisions.
func bumped(t *testing.T, m *cluster.Member) string {
	t.Helper()
	ctx, cancel := within(20 * time.Second)
	defer cancel()
	cli := m.Client()
	r, err := cli.Get(ctx, "", clientv3.WithPrefix())
	must(t, err)
	_, old := cli.Get(ctx, "backup/end", clientv3.WithRev(50))
	w := <-cli.Watch(ctx, "backup/end", clientv3.WithRev(50))
	h, err := m.HashKV(ctx, 0)
	must(t, err)
	p, err := cli.Put(ctx, "next", "x")
	must(t, err)
	return fmt.Sprint(r.Header.Revision, r.Count, old, w.CompactRevision, w.Err(), h.Hash, h.CompactRevision, p.Header.Revision)
}
