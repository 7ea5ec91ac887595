package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/test/cluster"
)

// rightValue is a value that stands in the file as it is, so that a test can flip it.
const rightValue = "value-that-is-right"

// flip changes one bit of rightValue wherever the member's database holds it.
func flip(t *testing.T, m *cluster.Member) {
	t.Helper()
	edit(t, filepath.Join(m.Dir, "member", "snap", "db"), func(b []byte) []byte {
		if !bytes.Contains(b, []byte(rightValue)) {
			t.Fatal("the database does not hold the value")
		}
		return bytes.ReplaceAll(b, []byte(rightValue), []byte("value-that-is-rigit"))
	})
}

// writer puts all the time through every member but one.
type writer struct {
	puts   atomic.Int64
	wrong  atomic.Int64 // reads of a wrong value through the members that are right
	gap    atomic.Int64 // longest time between two puts, nanoseconds
	failed sync.Map
	stop   chan struct{}
	wg     sync.WaitGroup
}

func (w *writer) run(cli *clientv3.Client) {
	last := time.Now()
	for i := 0; ; i++ {
		select {
		case <-w.stop:
			return
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		if _, err := cli.Put(ctx, fmt.Sprintf("load-%d", i%100), fmt.Sprint(i)); err != nil {
			w.failed.Store(i, err)
		} else {
			w.puts.Add(1)
			w.gap.Store(max(w.gap.Load(), int64(time.Since(last))))
			last = time.Now()
		}
		if r, err := cli.Get(ctx, "right"); err == nil && (len(r.Kvs) != 1 || string(r.Kvs[0].Value) != rightValue) {
			w.wrong.Add(1)
		}
		cancel()
	}
}

// TestFlippedByteIsRepaired: operators.md 2k. One bit of a value in one member's file is
// flipped while the member is down: real etcd serves the wrong value for ever by default,
// and with its check switched on stops the writes of the whole cluster. Ours fences the
// one member, says so, and repairs it, while the cluster takes writes.
func TestFlippedByteIsRepaired(t *testing.T) {
	for _, who := range []string{"follower", "leader", "beside etcd 3.5", "beside etcd 3.7"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			ours := cluster.Theseus(t)
			minor, beside := strings.CutPrefix(who, "beside etcd ")
			o := cluster.Options{Binaries: []cluster.Binary{ours, ours, ours}, MemberOf: func(i int) []string {
				if beside && i > 0 {
					return nil
				}
				return []string{"--corrupt-check-time=500ms"}
			}}
			if beside {
				o.Binaries[1], o.Binaries[2] = cluster.Etcd(t, minor), cluster.Etcd(t, minor)
			}
			c := cluster.New(t, o)
			bad := c.Members[(c.Leader()+1)%3]
			if beside {
				bad = c.Members[0]
			}
			for _, k := range []string{"right", "k1", "k2"} {
				if _, err := c.Client().Put(context.Background(), k, rightValue); err != nil {
					t.Fatal(err)
				}
			}
			bad.Stop()
			flip(t, bad)
			w := &writer{stop: make(chan struct{})}
			var others []int
			for i, m := range c.Members {
				if m != bad {
					others = append(others, i)
				}
			}
			cli := c.Client(others...)
			w.wg.Go(func() { w.run(cli) })
			bad.Start()
			if who == "leader" {
				lead(t, c, bad)
			}
			repaired(t, bad)
			close(w.stop)
			w.wg.Wait()
			w.failed.Range(func(i, err any) bool { t.Errorf("put %v: %v", i, err); return true })
			t.Logf("%d puts, longest gap %s", w.puts.Load(), time.Duration(w.gap.Load()))
			if gap := time.Duration(w.gap.Load()); gap > 5*time.Second {
				t.Errorf("writes stopped for %s", gap)
			}
			equal(t, c)
			aside, err := filepath.Glob(filepath.Join(bad.Dir, "member", "snap", "db.corrupt-*"))
			if err != nil || len(aside) != 1 {
				t.Fatalf("files aside: %q, %v", aside, err)
			}
			if b, err := os.ReadFile(aside[0]); err != nil || !bytes.Contains(b, []byte("value-that-is-rigit")) {
				t.Errorf("the bad file is not kept: %v", err)
			}
			bad.Stop() // and what it runs on is a directory like any other
			bad.Start()
			equal(t, c)
		})
	}
}

// lead hands leadership to a member as soon as it serves, if it is not fenced yet.
func lead(t *testing.T, c *cluster.Cluster, m *cluster.Member) {
	t.Helper()
	err := cluster.Eventually(t, func(ctx context.Context) error {
		if strings.Contains(m.Log(), "it is fenced") {
			return nil // too late: it must not lead any more
		}
		if st, err := m.Status(ctx); err != nil || st.Leader == m.ID() {
			return err
		}
		_, err := c.Members[c.Leader()].Client().MoveLeader(ctx, m.ID())
		if err != nil {
			return err
		}
		return errors.New("look again")
	})
	if err != nil {
		t.Fatal(err)
	}
}

// repaired waits for the fence, in the log, and for its end.
func repaired(t *testing.T, m *cluster.Member) {
	t.Helper()
	fenced := false
	err := cluster.Eventually(t, func(ctx context.Context) error {
		if !strings.Contains(m.Log(), "it is fenced: no reads, writes or watches until it is repaired") {
			return errors.New("it is not fenced")
		}
		if !strings.Contains(m.Log(), "equals the quorum's again") {
			if r, err := m.Client().Get(ctx, "right", clientv3.WithSerializable()); err == nil && string(r.Kvs[0].Value) != rightValue && !strings.Contains(m.Log(), "equals the quorum's again") {
				return fmt.Errorf("a fenced member answered %q", r.Kvs[0].Value)
			} else if err != nil {
				fenced = true
			}
			return errors.New("it is not repaired")
		}
		body, err := m.HTTP("/readyz")
		if err != nil {
			return fmt.Errorf("%s: %w", body, err)
		}
		r, err := m.Client().Get(ctx, "right", clientv3.WithSerializable())
		if err != nil {
			return err
		}
		if got := string(r.Kvs[0].Value); got != rightValue {
			return fmt.Errorf("after the repair it answers %q", got)
		}
		return nil
	})
	t.Logf("a refusal was seen: %v", fenced)
	if err != nil {
		t.Fatal(err)
	}
}

// equal waits until all members are at one revision with one hash, without an alarm.
func equal(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	err := cluster.Eventually(t, func(ctx context.Context) error {
		var first *pb.HashKVResponse
		for _, m := range c.Members {
			h, err := m.HashKV(ctx, 0)
			if err != nil {
				return err
			}
			if first == nil {
				first = h
			}
			if h.Header.Revision != first.Header.Revision || h.Hash != first.Hash {
				return fmt.Errorf("hashes %d at %d and %d at %d", first.Hash, first.Header.Revision, h.Hash, h.Header.Revision)
			}
		}
		r, err := c.Client().AlarmList(ctx)
		if err != nil {
			return err
		}
		if len(r.Alarms) != 0 {
			t.Fatalf("alarms %v", r.Alarms)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCompactionHashesAgreeWithEtcd: etcd's own check of compaction hashes, and ours,
// in a mixed cluster under load, with etcd or with Theseus as leader: silent, and the
// hashes are really compared.
func TestCompactionHashesAgreeWithEtcd(t *testing.T) {
	for _, minor := range []string{"3.5", "3.6", "3.7"} {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			ours, etcd := cluster.Theseus(t), cluster.Etcd(t, minor)
			theirs := map[string][]string{
				"3.5": {"--experimental-compact-hash-check-enabled", "--experimental-compact-hash-check-time=200ms", "--experimental-corrupt-check-time=300ms"},
				"3.6": {"--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=200ms", "--corrupt-check-time=300ms", "--log-level=debug"},
				"3.7": {"--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=200ms", "--corrupt-check-time=300ms", "--log-level=debug"},
			}[minor]
			own := []string{"--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=200ms", "--corrupt-check-time=300ms"}
			c := cluster.New(t, cluster.Options{
				Binaries: []cluster.Binary{ours, etcd, etcd},
				MemberOf: func(i int) []string {
					if i == 0 {
						return own
					}
					return theirs
				},
			})
			w := &writer{stop: make(chan struct{})}
			if _, err := c.Client().Put(context.Background(), "right", rightValue); err != nil {
				t.Fatal(err)
			}
			cli := c.Client()
			w.wg.Go(func() { w.run(cli) })
			for _, leader := range []*cluster.Member{c.Members[1], c.Members[0]} {
				moved(t, c, leader)
				for range 5 {
					compactNow(t, cli)
				}
				if err := cluster.Eventually(t, func(context.Context) error { return hashesCompared(leader) }); err != nil {
					t.Errorf("while %s leads: %v", leader.Binary.Name, err)
				}
			}
			close(w.stop)
			w.wg.Wait()
			equal(t, c)
			for _, m := range c.Members {
				for _, bad := range []string{"mismatch", "found corruption", "must match", "is fenced"} {
					if strings.Contains(m.Log(), bad) {
						t.Errorf("%s says %q", m.Name, bad)
					}
				}
			}
		})
	}
}

// moved makes a member lead.
func moved(t *testing.T, c *cluster.Cluster, m *cluster.Member) {
	t.Helper()
	err := cluster.Eventually(t, func(ctx context.Context) error {
		st, err := m.Status(ctx)
		if err != nil || st.Leader == m.ID() {
			return err
		}
		if _, err := c.Members[c.Leader()].Client().MoveLeader(ctx, m.ID()); err != nil {
			return err
		}
		return errors.New("look again")
	})
	if err != nil {
		t.Fatal(err)
	}
}

// compactNow compacts a little behind the current revision.
func compactNow(t *testing.T, cli *clientv3.Client) {
	t.Helper()
	err := cluster.Eventually(t, func(ctx context.Context) error {
		r, err := cli.Get(ctx, "right")
		if err != nil {
			return err
		}
		_, err = cli.Compact(ctx, r.Header.Revision-1, clientv3.WithCompactPhysical())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// hashesCompared looks for the sign that a leader found the hashes of a compaction equal
// on all members.
func hashesCompared(m *cluster.Member) error {
	if !m.Binary.Ours() {
		if strings.Contains(m.Log(), "successfully checked hash on whole cluster") {
			return nil
		}
		return errors.New("its log does not tell of a check")
	}
	text, err := m.HTTP("/metrics")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(text, "\n") {
		if n, ok := strings.CutPrefix(line, "theseus_server_compaction_hashes_agreed_total "); ok && n != "0" {
			return nil
		}
	}
	return errors.New("its metric counts no check")
}

// TestHashKVEdges: trap 19. RPC and peer endpoint of Theseus and of etcd answer alike at
// every revision near an edge, also where etcd answers out of its memory of compactions,
// and again after a restart, when nobody remembers.
func TestHashKVEdges(t *testing.T) {
	for _, minor := range []string{"3.5", "3.6", "3.7"} {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			etcd := cluster.Etcd(t, minor)
			c := cluster.New(t, cluster.Options{Binaries: []cluster.Binary{cluster.Theseus(t), etcd, etcd}})
			cli := c.Client()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			for i := range 12 {
				put(t, c, fmt.Sprintf("k%d", i%5))
				if i%4 == 3 {
					if _, err := cli.Delete(ctx, fmt.Sprintf("k%d", i%5)); err != nil {
						t.Fatal(err)
					}
				}
			}
			var last int64
			for _, rev := range []int64{5, 6, 11} {
				if _, err := cli.Compact(ctx, rev, clientv3.WithCompactPhysical()); err != nil {
					t.Fatal(err)
				}
				remembered(t, c, rev)
				last = rev
			}
			r, err := cli.Get(ctx, "k0")
			if err != nil {
				t.Fatal(err)
			}
			edges := []int64{-1, 0, 1, 5, 6, last - 1, last, last + 1, r.Header.Revision - 1, r.Header.Revision, r.Header.Revision + 1}
			sameAnswers(t, c, edges)
			for _, m := range c.Members {
				m.Stop()
				m.Start()
				m.WaitHealthy()
			}
			sameAnswers(t, c, edges)
		})
	}
}

// remembered waits until every member answers at a compaction's revision with the hash
// from before it.
func remembered(t *testing.T, c *cluster.Cluster, rev int64) {
	t.Helper()
	err := cluster.Eventually(t, func(ctx context.Context) error {
		for _, m := range c.Members {
			if h, err := m.HashKV(ctx, rev); err != nil || h.CompactRevision >= rev {
				return fmt.Errorf("%s: %v %w", m.Name, h, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sameAnswers compares the answers of all members, at both ports.
func sameAnswers(t *testing.T, c *cluster.Cluster, revs []int64) {
	t.Helper()
	for _, rev := range revs {
		err := cluster.Eventually(t, func(ctx context.Context) error {
			var first string
			for _, m := range c.Members {
				var said string
				if h, err := m.HashKV(ctx, rev); err != nil {
					said = err.Error()
				} else {
					said = fmt.Sprintf("hash %d at %d compacted %d", h.Hash, h.Header.Revision, h.CompactRevision)
				}
				peers, err := peerHash(ctx, m, rev)
				if err != nil {
					return err
				}
				said += "; " + peers
				if first == "" {
					first = said
				}
				if said != first {
					return fmt.Errorf("%s says %s; %s says %s", c.Members[0].Binary.Name, first, m.Binary.Name, said)
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("revision %d: %v", rev, err)
		}
	}
}

// peerHash asks /members/hashkv.
func peerHash(ctx context.Context, m *cluster.Member, rev int64) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, m.PeerURL()+"/members/hashkv", strings.NewReader(fmt.Sprintf(`{"revision":%d}`, rev)))
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var x struct {
		Hash            uint32 `json:"hash"`
		CompactRevision int64  `json:"compact_revision"`
	}
	if json.Unmarshal(b, &x) != nil {
		return fmt.Sprintf("status %d: %s", resp.StatusCode, b), nil
	}
	return fmt.Sprintf("status %d: %+v", resp.StatusCode, x), nil
}
