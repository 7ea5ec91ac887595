package server

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// realEtcd is a real etcd of some minor version that a test starts on its directory.
type realEtcd struct {
	t            *testing.T
	binary, dir  string
	client, peer string // URLs
	cmd          *exec.Cmd
	output       bytes.Buffer
}

func newRealEtcd(t *testing.T, minor string) *realEtcd {
	t.Helper()
	root := os.Getenv("THESEUS_PEERS")
	if root == "" {
		root = filepath.Join("..", "build", "peers")
	}
	binary, err := filepath.Abs(filepath.Join(root, minor, "etcd"))
	if err == nil {
		_, err = os.Stat(binary)
	}
	if err != nil && os.Getenv("THESEUS_REQUIRE_PEERS") != "" {
		t.Fatalf("real etcd %s is missing: run make peers", minor)
	}
	if err != nil {
		t.Skipf("real etcd %s is missing: run make peers", minor)
	}
	r := &realEtcd{t: t, binary: binary, dir: filepath.Join(t.TempDir(), "data"), client: freeURL(t), peer: freeURL(t)}
	t.Cleanup(r.kill)
	return r
}

func freeURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func (r *realEtcd) start() {
	r.t.Helper()
	r.output.Reset()
	r.launch("m0", "m0="+r.peer)
	r.use(func(ctx context.Context, c *clientv3.Client) {
		if _, err := c.Get(ctx, "a"); err != nil {
			r.t.Fatalf("%s does not serve: %v\n%s", r.binary, err, r.output.String())
		}
	})
}

// launch starts the process and does not wait.
func (r *realEtcd) launch(name, initial string) {
	r.t.Helper()
	r.cmd = exec.Command(r.binary, "--name", name, "--data-dir", r.dir,
		"--listen-client-urls", r.client, "--advertise-client-urls", r.client,
		"--listen-peer-urls", r.peer, "--initial-advertise-peer-urls", r.peer,
		"--initial-cluster", initial, "--snapshot-count", "20", "--logger", "zap")
	r.cmd.Stdout, r.cmd.Stderr = &r.output, &r.output
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
}

// use runs fn with a client of the member.
func (r *realEtcd) use(fn func(ctx context.Context, c *clientv3.Client)) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{r.client}, Context: ctx})
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	fn(ctx, c)
}

// stop ends the member as an operator would.
func (r *realEtcd) stop() {
	r.t.Helper()
	if r.cmd != nil {
		_ = r.cmd.Process.Signal(os.Interrupt)
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}

func (r *realEtcd) kill() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}

// facts are what must survive the change of servers.
type facts struct {
	Revision int64
	Hash     uint32
	Members  string
	Version  string
}

func (r *realEtcd) facts() (f facts) {
	r.t.Helper()
	r.use(func(ctx context.Context, c *clientv3.Client) {
		h, err := c.HashKV(ctx, r.client, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		list, err := c.MemberList(ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		f = facts{Revision: h.Header.Revision, Hash: h.Hash, Members: fmt.Sprint(list.Members[0].ID, list.Members[0].Name, list.Members[0].PeerURLs)}
	})
	return f
}

func (m *testMember) facts() facts {
	m.t.Helper()
	h, err := m.HashKV(m.context(), &pb.HashKVRequest{})
	must(m.t, err)
	list, err := m.MemberList(m.context(), &pb.MemberListRequest{Linearizable: true})
	must(m.t, err)
	x := list.Members[0]
	return facts{Revision: h.Header.Revision, Hash: h.Hash, Members: fmt.Sprint(x.ID, x.Name, x.PeerURLs)}
}

// TestRealDirectories opens what real etcd wrote, serves and writes, and lets the real
// one open it again.
func TestRealDirectories(t *testing.T) {
	for _, minor := range []string{"3.4", "3.5", "3.6", "3.7"} {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			r := newRealEtcd(t, minor)
			r.start()
			r.use(func(ctx context.Context, c *clientv3.Client) {
				for i := range 60 {
					_, err := c.Put(ctx, fmt.Sprint("k", i%7), fmt.Sprint(i))
					must(t, err)
				}
				_, err := c.Delete(ctx, "k3")
				must(t, err)
				lease, err := c.Grant(ctx, 1000)
				must(t, err)
				_, err = c.Put(ctx, "leased", "x", clientv3.WithLease(lease.ID))
				must(t, err)
				_, err = c.Compact(ctx, 30)
				must(t, err)
				time.Sleep(500 * time.Millisecond) // its compaction works in the background
			})
			want := r.facts()
			r.stop()

			c := &testCluster{t: t}
			m := c.member("m0")
			m.listener.Close()
			m.listener = nil
			m.o.DataDir, m.o.PeerURLs, m.o.ClientURLs = r.dir, []string{r.peer}, []string{r.client}
			m.o.EmulateVersion, m.o.SnapshotCount, m.o.CatchUpEntries, m.o.UnsafeNoSync = minor+".0", 20, 5, false
			for range 2 { // its log, then ours
				m.start()
				if got := m.facts(); got != want {
					t.Errorf("we see %+v, etcd %s saw %+v", got, minor, want)
				}
				for i := range 50 {
					m.put(fmt.Sprint("ours", i%5), fmt.Sprint(i))
				}
				<-m.Ready()
				leases, err := m.LeaseLeases(m.context(), &pb.LeaseLeasesRequest{})
				if err != nil || len(leases.Leases) != 1 {
					t.Errorf("leases: %v, %v", leases, err)
				}
				if _, cv, _ := m.Versions(); cv != minor+".0" {
					t.Errorf("cluster version %s", cv)
				}
				want = m.facts()
				m.stop()
			}
			r.start()
			if got := r.facts(); got != want {
				t.Errorf("etcd %s sees %+v, we saw %+v", minor, got, want)
			}
		})
	}
}

// TestMixedCluster has one member of ours beside two of real etcd: it is born with them,
// writes, reads and grants leases through either side, and misses enough to need a
// snapshot.
func TestMixedCluster(t *testing.T) {
	for _, minor := range []string{"3.4", "3.5", "3.6", "3.7"} {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			a, b := newRealEtcd(t, minor), newRealEtcd(t, minor)
			c := &testCluster{t: t}
			m := c.member("ours")
			m.o.Tick, m.o.ElectionTicks = 100*time.Millisecond, 10 // as the others have it
			m.o.EmulateVersion, m.o.SnapshotCount, m.o.CatchUpEntries = minor+".0", 20, 5
			initial := "a=" + a.peer + ",b=" + b.peer + ",ours=" + m.o.PeerURLs[0]
			m.o.InitialCluster = map[string][]string{"a": {a.peer}, "b": {b.peer}, "ours": m.o.PeerURLs}
			a.launch("a", initial)
			b.launch("b", initial)
			m.start()
			m.put("from", "ours")
			var lease clientv3.LeaseID
			a.use(func(ctx context.Context, c *clientv3.Client) {
				_, err := c.Put(ctx, "from", "theirs")
				must(t, err)
				grant, err := c.Grant(ctx, 100)
				must(t, err)
				lease = grant.ID
			})
			if got := m.get("from"); got != "theirs" {
				t.Errorf("we read %q", got)
			}
			if ttl, err := m.LeaseRenew(m.context(), int64(lease)); err != nil || ttl != 100 {
				t.Errorf("renew: %d, %v", ttl, err)
			}
			m.stop()
			a.use(func(ctx context.Context, c *clientv3.Client) {
				for i := range 6000 / 50 {
					ops := make([]clientv3.Op, 50)
					for j := range ops {
						ops[j] = clientv3.OpPut(fmt.Sprint("k", j), fmt.Sprint(i))
					}
					_, err := c.Txn(ctx).Then(ops...).Commit()
					must(t, err)
				}
			})
			m.start()
			if got := m.get("k7"); got != "119" {
				t.Errorf("after a rest we read %q", got)
			}
			same := func() bool {
				ours, theirs := m.facts(), a.facts()
				return ours.Hash == theirs.Hash && ours.Revision == theirs.Revision
			}
			c.eventually("equal hashes", same)
			_, err := m.MoveLeader(m.context(), &pb.MoveLeaderRequest{TargetID: m.ID()})
			if err != nil && err.Error() != "etcdserver: not leader" {
				t.Errorf("move leader: %v", err)
			}
			b.stop() // leaves ours and one of theirs
			m.put("last", "one")
			a.use(func(ctx context.Context, c *clientv3.Client) {
				got, err := c.Get(ctx, "last")
				if err != nil || len(got.Kvs) != 1 {
					t.Errorf("they read %v, %v", got, err)
				}
			})
			c.eventually("equal hashes", same)
			if _, cv, _ := m.Versions(); cv != minor+".0" {
				t.Errorf("cluster version %s", cv)
			}
		})
	}
}
