package operator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/test/cluster"
)

// mix is which members a cluster of three has: all ours, or ours beside two of etcd.
type mix struct {
	name     string
	binaries func(t *testing.T) []cluster.Binary
}

var mixes = []mix{
	{"ours", func(t *testing.T) []cluster.Binary {
		b := cluster.Theseus(t)
		return []cluster.Binary{b, b, b}
	}},
	{"beside etcd 3.5", func(t *testing.T) []cluster.Binary {
		e := cluster.Etcd(t, "3.5")
		return []cluster.Binary{cluster.Theseus(t), e, e}
	}},
}

// eachMix runs a test in both.
func eachMix(t *testing.T, run func(t *testing.T, c *cluster.Cluster)) {
	for _, x := range mixes {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			c := cluster.New(t, cluster.Options{Binaries: x.binaries(t)})
			published(t, c)
			for i := range 20 {
				put(t, c, fmt.Sprintf("k%d", i))
			}
			run(t, c)
		})
	}
}

func put(t *testing.T, c *cluster.Cluster, key string, numbers ...int) {
	t.Helper()
	err := cluster.Eventually(t, func(ctx context.Context) error {
		_, err := c.Client(numbers...).Put(ctx, key, "v")
		return err
	})
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

// wipe is what an operator does who wants to begin again.
func wipe(t *testing.T, m *cluster.Member) {
	t.Helper()
	m.Kill()
	if err := os.RemoveAll(m.Dir); err != nil {
		t.Fatal(err)
	}
}

// waitHeld waits until a member says on every port that it is not ready, and why.
func waitHeld(t *testing.T, m *cluster.Member, parts ...string) {
	t.Helper()
	err := cluster.Eventually(t, func(context.Context) error {
		if !m.Running() {
			return fmt.Errorf("%s has ended", m.Name)
		}
		s, err := m.HTTP("/health")
		if err != nil && s == "" {
			return err
		}
		for _, p := range append(parts, `"health":"false"`) {
			if !strings.Contains(s, p) {
				return fmt.Errorf("/health does not say %q: %s", p, s)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if s, _ := m.HTTP("/readyz"); !strings.Contains(s, "not ready: ") {
		t.Errorf("/readyz: %s", s)
	}
	if s, err := m.HTTP("/livez"); err != nil || strings.TrimSpace(s) != "ok" {
		t.Errorf("/livez: %s, %v", s, err)
	}
	if s, _ := m.HTTP("/version"); !strings.Contains(s, `"etcdcluster":"not_decided"`) {
		t.Errorf("/version: %s", s)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := grpc.NewClient(strings.TrimPrefix(m.ClientURL(), "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	h, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil || h.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health service: %v, %v", h, err)
	}
	err = conn.Invoke(ctx, "/etcdserverpb.KV/Range", &healthpb.HealthCheckRequest{}, &healthpb.HealthCheckResponse{})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), parts[0]) {
		t.Errorf("a call: %v", err)
	}
}

// hashesAgree waits until all running members have equal hashes.
func hashesAgree(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	err := cluster.Eventually(t, func(ctx context.Context) error {
		var first string
		for _, m := range c.Members {
			h, err := m.HashKV(ctx, 0)
			if err != nil {
				return err
			}
			one := fmt.Sprint(h.Hash, h.Header.Revision, h.CompactRevision)
			if first == "" {
				first = one
			} else if one != first {
				return fmt.Errorf("%s has %s, the first %s", m.Name, one, first)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestWipedMemberIsHeld: etcd panics with "tocommit is out of range" here, at every
// restart, or exits.
func TestWipedMemberIsHeld(t *testing.T) {
	for _, state := range []string{"existing", "new"} {
		t.Run(state, func(t *testing.T) {
			eachMix(t, func(t *testing.T, c *cluster.Cluster) {
				m := c.Members[0]
				id := m.ID()
				wipe(t, m)
				m.State = state
				m.Start()
				waitHeld(t, m, "has already been bootstrapped", "has no data", fmt.Sprintf("member remove %x", id), "--on-data-loss=replace")
				if _, err := os.Stat(m.Dir); !os.IsNotExist(err) {
					t.Errorf("the data directory was made: %v", err)
				}
				put(t, c, "later", 1, 2)
				out := etcdctl(t, m, "endpoint", "health")
				if !strings.Contains(out, "has no data") {
					t.Errorf("etcdctl endpoint health does not say why: %s", out)
				}
				if !strings.Contains(m.Log(), `"msg":"this member is not ready and does not take part in its cluster"`) {
					t.Error("the log does not say it")
				}
				byHand(t, c, m, id)
			})
		})
	}
}

func etcdctl(t *testing.T, m *cluster.Member, args ...string) string {
	t.Helper()
	cmd := exec.Command(cluster.Peer(t, "3.5", "etcdctl"), append([]string{"--endpoints", m.ClientURL()}, args...)...)
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// byHand does what the member says is to be done.
func byHand(t *testing.T, c *cluster.Cluster, m *cluster.Member, id uint64) {
	t.Helper()
	cli := c.Client(1, 2)
	err := cluster.Eventually(t, func(ctx context.Context) error {
		_, err := cli.MemberRemove(ctx, id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = cluster.Eventually(t, func(ctx context.Context) error {
		_, err := cli.MemberAddAsLearner(ctx, []string{m.PeerURL()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if m.State == "new" {
		waitHeld(t, m, "has already been bootstrapped")
		m.Stop()
		m.State = "existing"
		m.Start()
	}
	err = cluster.Eventually(t, func(ctx context.Context) error {
		st, err := m.Status(ctx)
		if err != nil {
			return err
		}
		if !st.IsLearner {
			return nil
		}
		_, err = cli.MemberPromote(ctx, st.Header.MemberId)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	hashesAgree(t, c)
}

// published waits until every member knows by its log that all have started.
func published(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for i := range c.Members {
		err := cluster.Eventually(t, func(ctx context.Context) error {
			r, err := c.Client(i).MemberList(ctx)
			if err != nil {
				return err
			}
			for _, m := range r.Members {
				if len(m.ClientURLs) == 0 {
					return fmt.Errorf("%x is not published", m.ID)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		put(t, c, fmt.Sprintf("k%d", i)) // the commit of what came before is on disk then
	}
}

// TestTwoOfThreeWiped: in etcd the two found a second history next to the third's, all
// three healthy and for ever different.
func TestTwoOfThreeWiped(t *testing.T) {
	b := cluster.Theseus(t)
	c := cluster.New(t, cluster.Options{Binaries: []cluster.Binary{b, b, b}})
	put(t, c, "k")
	published(t, c)
	c.Members[2].Kill()
	for _, m := range c.Members[:2] {
		wipe(t, m)
		m.Start()
	}
	for _, m := range c.Members[:2] {
		waitHeld(t, m, "by its birth record", "has no data")
	}
	c.Members[2].Start()
	for _, m := range c.Members[:2] {
		waitHeld(t, m, "knows it as started")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := c.Client(2).Get(ctx, "k", clientv3.WithSerializable())
	if err != nil || len(r.Kvs) != 1 {
		t.Errorf("the third member has %v, %v", r, err)
	}
}

// TestTwoOfThreeWipedWithoutRecords: even without a record nothing is founded while the
// third cannot be asked.
func TestTwoOfThreeWipedWithoutRecords(t *testing.T) {
	c := cluster.New(t, cluster.Options{Size: 3, Args: []string{"--birth-record", ""}})
	put(t, c, "k")
	published(t, c)
	c.Members[2].Kill()
	for _, m := range c.Members[:2] {
		wipe(t, m)
		m.Start()
	}
	for _, m := range c.Members[:2] {
		waitHeld(t, m, "waiting for m3=", "has said that it is new too")
	}
	c.Members[2].Start()
	for _, m := range c.Members[:2] {
		waitHeld(t, m, "knows it as started", "has no data")
	}
}

// TestAllWiped: etcd serves an empty cluster of the same id, healthy after half a second.
func TestAllWiped(t *testing.T) {
	b := cluster.Theseus(t)
	c := cluster.New(t, cluster.Options{Binaries: []cluster.Binary{b, b, b}})
	published(t, c)
	put(t, c, "k")
	for _, m := range c.Members {
		wipe(t, m)
	}
	// One record is enough: the disk of the others was lost with theirs.
	for _, m := range c.Members[1:] {
		if err := os.Remove(m.Dir + ".birth"); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range c.Members {
		m.Start()
	}
	waitHeld(t, c.Members[0], "by its birth record")
	for _, m := range c.Members[1:] {
		waitHeld(t, m, "says that this cluster is not new")
	}
	// Who wants it, says so.
	for _, m := range c.Members {
		m.Stop()
	}
	if err := os.Remove(c.Members[0].Dir + ".birth"); err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Members {
		m.Start()
	}
	c.WaitHealthy()
}

// TestFoundingWaits: members come one by one, and the cluster is founded by the last.
func TestFoundingWaits(t *testing.T) {
	c := cluster.Prepare(t, cluster.Options{Size: 3})
	c.Members[0].Start()
	waitHeld(t, c.Members[0], "waiting for m2=", "m3=")
	c.Members[1].Start()
	waitHeld(t, c.Members[1], "waiting for m3=")
	c.Members[2].Start()
	c.WaitHealthy()
	put(t, c, "k")
	hashesAgree(t, c)
}

// TestReplacement: a wiped member comes back by itself.
func TestReplacement(t *testing.T) {
	eachMix(t, func(t *testing.T, c *cluster.Cluster) {
		m := c.Members[0]
		id := m.ID()
		wipe(t, m)
		put(t, c, "meanwhile", 1, 2)
		m.Args = []string{"--on-data-loss", "replace"}
		m.Start()
		replaced(t, c, m, id)
	})
}

// replaced waits until a member is back under another id, as a voter, with all the data.
func replaced(t *testing.T, c *cluster.Cluster, m *cluster.Member, old uint64) {
	t.Helper()
	cli := c.Client(1, 2)
	err := cluster.Eventually(t, func(ctx context.Context) error {
		r, err := cli.MemberList(ctx)
		if err != nil {
			return err
		}
		if len(r.Members) != 3 {
			return fmt.Errorf("%d members", len(r.Members))
		}
		for _, x := range r.Members {
			switch {
			case x.ID == old:
				return errors.New("the old member is there")
			case x.Name == "" || x.IsLearner:
				return fmt.Errorf("member %x is %+v", x.ID, x)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = cluster.Eventually(t, func(context.Context) error {
		s, err := m.HTTP("/readyz")
		if err == nil && strings.TrimSpace(s) != "ok" {
			err = errors.New(s)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	hashesAgree(t, c)
	// It is a member like any other: it restarts, with the same flags.
	m.Stop()
	m.Start()
	m.WaitHealthy()
	hashesAgree(t, c)
	err = cluster.Eventually(t, func(context.Context) error {
		if _, err := os.Stat(m.Dir + "/.theseus-replace.json"); !os.IsNotExist(err) {
			return fmt.Errorf("the note of the replacement is still there: %w", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestReplacementKilled kills the member at each step of its replacement.
func TestReplacementKilled(t *testing.T) {
	for _, after := range []string{"replacing this member", "removed the old member", "added this member as a learner", "starting local member", "waiting to be promoted"} {
		t.Run(after, func(t *testing.T) {
			t.Parallel()
			c := cluster.New(t, cluster.Options{Size: 3})
			published(t, c)
			put(t, c, "k")
			m := c.Members[0]
			id := m.ID()
			wipe(t, m)
			m.Args = []string{"--on-data-loss", "replace"}
			before := len(m.Log())
			m.Start()
			err := cluster.Eventually(t, func(context.Context) error {
				if !strings.Contains(m.Log()[before:], after) && !strings.Contains(m.Log()[before:], "votes again") {
					return errors.New("not yet")
				}
				return nil
			})
			m.Kill()
			if err != nil {
				t.Fatal(err)
			}
			m.Start()
			replaced(t, c, m, id)
		})
	}
}

// TestReplacementNeedsQuorum: nothing is removed while the others could not decide it.
func TestReplacementNeedsQuorum(t *testing.T) {
	c := cluster.New(t, cluster.Options{Size: 3})
	published(t, c)
	put(t, c, "k")
	c.Members[2].Kill()
	m := c.Members[0]
	wipe(t, m)
	m.Args = []string{"--on-data-loss", "replace"}
	m.Start()
	waitHeld(t, m, "replacing it: only ", "nothing is removed")
	c.Members[2].Start()
	replaced(t, c, m, m.ID())
}

// TestLossMayExit: who wants etcd's way has it.
func TestLossMayExit(t *testing.T) {
	c := cluster.New(t, cluster.Options{Size: 3, Args: []string{"--on-data-loss", "exit"}})
	published(t, c)
	m := c.Members[0]
	wipe(t, m)
	said, code := run(t, m.Flags()[1:]...)
	wants(t, said, code, 1, fmt.Sprintf("member %x has already been bootstrapped", m.ID()))
}

// TestRemovalAsksTheMembers: a member that is stuck still has its connections. etcd counts
// those, removes a good member, and is left without a quorum.
func TestRemovalAsksTheMembers(t *testing.T) {
	c := cluster.New(t, cluster.Options{Size: 3})
	put(t, c, "k")
	published(t, c)
	lead := c.Leader()
	stuck, other := c.Members[(lead+1)%3], c.Members[(lead+2)%3]
	cli := c.Client(lead)
	connectedLongEnough(t, c, lead)
	stuck.Pause()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := cli.MemberRemove(ctx, other.ID())
	stuck.Resume()
	if err == nil || !strings.Contains(err.Error(), "unhealthy cluster") {
		t.Errorf("removal beside a stuck member: %v", err)
	}
	put(t, c, "after")
	hashesAgree(t, c)
}

// connectedLongEnough waits until the connections have stood for as long as etcd demands
// before it counts them: until it lets a learner in.
func connectedLongEnough(t *testing.T, c *cluster.Cluster, lead int) {
	t.Helper()
	err := cluster.Eventually(t, func(ctx context.Context) error {
		r, err := c.Client(lead).MemberAddAsLearner(ctx, []string{"http://127.0.0.1:1"})
		if err != nil {
			return err
		}
		_, err = c.Client(lead).MemberRemove(ctx, r.Member.ID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestReplacementTLS replaces a member where both ports want certificates.
func TestReplacementTLS(t *testing.T) {
	a := cluster.NewAuthority(t)
	c := cluster.Prepare(t, cluster.Options{Size: 3, Scheme: "https"})
	for i, m := range c.Members {
		host := strings.TrimSuffix(strings.TrimPrefix(m.ClientURL(), "https://"), ":2379")
		a.Issue(m.Name, "server", int64(100+i), host, "127.0.0.1")
		cert, key, ca := a.Path(m.Name+".pem"), a.Path(m.Name+".key"), a.Path("ca.pem")
		m.Args = []string{
			"--cert-file", cert, "--key-file", key, "--trusted-ca-file", ca, "--client-cert-auth",
			"--peer-cert-file", cert, "--peer-key-file", key, "--peer-trusted-ca-file", ca, "--peer-client-cert-auth",
			"--on-data-loss", "replace",
		}
		m.Start()
	}
	a.Issue("alice", "alice", 7)
	m := c.Members[0]
	old, others := m.ID(), secureClient(t, c.Members[1], a.Client("alice"))
	err := cluster.Eventually(t, func(ctx context.Context) error {
		_, err := secureClient(t, m, a.Client("alice")).Put(ctx, "k", "v")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	wipe(t, m)
	m.Start()
	err = cluster.Eventually(t, func(ctx context.Context) error {
		r, err := others.MemberList(ctx)
		if err != nil {
			return err
		}
		for _, x := range r.Members {
			if x.ID == old || x.Name == "" || x.IsLearner {
				return fmt.Errorf("member %x is %v", x.ID, x)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = cluster.Eventually(t, func(ctx context.Context) error {
		_, err := secureClient(t, m, a.Client("alice")).Get(ctx, "k")
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestReplacementKnowsLearners: etcd 3.3 takes a learner for a voter, without a word, so
// nothing is removed there; by hand it goes.
func TestReplacementKnowsLearners(t *testing.T) {
	e := cluster.Etcd(t, "3.3")
	c := cluster.New(t, cluster.Options{Binaries: []cluster.Binary{cluster.Theseus(t), e, e}})
	published(t, c)
	m := c.Members[0]
	id := m.ID()
	wipe(t, m)
	m.Args = []string{"--on-data-loss", "replace"}
	m.State = "existing"
	m.Start()
	waitHeld(t, m, "replacing it: the cluster version is 3.3.0, and learners are known from 3.4 on")
	cli := c.Client(1, 2)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := cli.MemberList(ctx)
	if err != nil || len(r.Members) != 3 {
		t.Errorf("members: %v, %v", r, err)
	}
	byHand(t, c, m, id)
}

// TestReplacementUnderAuth: a member has no user, so root does the part that needs one.
func TestReplacementUnderAuth(t *testing.T) {
	c := cluster.New(t, cluster.Options{Size: 3})
	put(t, c, "k")
	published(t, c)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cli := c.Client(1, 2)
	_, err1 := cli.UserAdd(ctx, "root", "r")
	_, err2 := cli.UserGrantRole(ctx, "root", "root")
	_, err3 := cli.AuthEnable(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	root, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(1, 2), Username: "root", Password: "r", DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	m := c.Members[0]
	id := m.ID()
	wipe(t, m)
	m.Args = []string{"--on-data-loss", "replace"}
	m.Start()
	waitHeld(t, m, "replacing it: ", "authentication is on, so this is for root: ", fmt.Sprintf("member remove %x", id))
	var added uint64
	for _, step := range []func(ctx context.Context) error{
		func(ctx context.Context) error { _, err := root.MemberRemove(ctx, id); return err },
		func(ctx context.Context) error {
			r, err := root.MemberAddAsLearner(ctx, []string{m.PeerURL()})
			if err == nil {
				added = r.Member.ID
			}
			return err
		},
		func(ctx context.Context) error { _, err := root.MemberPromote(ctx, added); return err },
	} {
		if err := cluster.Eventually(t, step); err != nil {
			t.Fatal(err)
		}
	}
	err = cluster.Eventually(t, func(context.Context) error {
		s, err := m.HTTP("/readyz")
		if err == nil && strings.TrimSpace(s) != "ok" {
			err = errors.New(s)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
