package interop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"theseus/test/cluster"
)

// mixed is a cluster of one Theseus, its first member, and two of etcd, in which
// either leads.
type mixed struct {
	*cluster.Cluster
	t     *testing.T
	minor string
	etcd  cluster.Binary
	ours  cluster.Binary
	leads bool // Theseus is to lead
}

// step is one kind of thing that is done to the cluster. Hashes are compared after it.
type step struct {
	name string
	do   func(m *mixed)
	when when
}

// when says in which cells a step is done in the short form; in the long one it is
// done in all.
type when int

const (
	always when = iota
	oursLeads
	etcdLeads
	never
)

func (w when) now(leads bool) bool {
	return full() || w == always || w == oursLeads && leads || w == etcdLeads && !leads
}

var steps = []step{
	{name: "puts", do: (*mixed).puts},
	{name: "txns", do: (*mixed).txns},
	{name: "leases expire", do: (*mixed).leasesExpire},
	{name: "auth", do: (*mixed).auth},
	{name: "compaction", do: (*mixed).compaction},
	// Before any member joins: etcd keeps its log for 30 s after it has sent a snapshot.
	{name: "snapshot", do: (*mixed).snapshot},
	{name: "kill each", do: (*mixed).killEach, when: etcdLeads},
	{name: "stop the leader", do: (*mixed).pauseLeader},
	{name: "learner", do: (*mixed).learner, when: oursLeads},
	{name: "replace", do: (*mixed).replaceMember, when: etcdLeads},
	{name: "kill under load", do: (*mixed).killUnderLoad, when: never},
	{name: "snapshot the other way", do: (*mixed).snapshotBack, when: never},
}

// full reports whether the long form is wanted.
func full() bool { return os.Getenv("THESEUS_FULL") != "" }

// cells are the versions that a test goes through: one old and one new if it has them,
// or all in the long form.
func cells(t *testing.T, all ...string) []string {
	t.Helper()
	if full() {
		return all
	}
	short := slices.DeleteFunc(slices.Clone(all), func(m string) bool { return m != "3.4" && m != "3.6" })
	if len(short) == 0 {
		return all[len(all)-1:]
	}
	return short
}

// onlyFull leaves what takes minutes to `make interop-full`.
func onlyFull(t *testing.T) {
	t.Helper()
	if os.Getenv("THESEUS_FULL") == "" {
		t.Skip("runs under `make interop-full`: it takes minutes")
	}
}

// TestMixed does everything to clusters of Theseus and each etcd, with either of them
// leading, and compares the members after each thing. At the end etcd gets the
// directory of Theseus back. THESEUS_FULL=1 makes it long.
func TestMixed(t *testing.T) {
	for _, minor := range cells(t, "3.3", "3.4", "3.5", "3.6", "3.7") {
		for _, leads := range []bool{true, false} {
			who := map[bool]string{true: "theseus leads", false: "etcd leads"}[leads]
			t.Run(minor+"/"+who, func(t *testing.T) {
				t.Parallel() // they wait more than they work
				mix(t, minor, leads)
			})
		}
	}
}

func mix(t *testing.T, minor string, leads bool) {
	m := &mixed{t: t, minor: minor, etcd: cluster.Etcd(t, minor), ours: cluster.Theseus(t), leads: leads}
	m.Cluster = cluster.New(t, cluster.Options{Size: 3, Binary: m.etcd, Args: []string{"--snapshot-count", "100"}})
	m.put(m.Client(1), "born", 20)
	replace(t, m.Members[0], m.ours)
	for _, s := range steps {
		if !s.when.now(leads) {
			continue
		}
		lead(t, m.Cluster, leads)
		began := time.Now()
		s.do(m)
		sameEverywhere(t, m.Cluster)
		if t.Failed() {
			t.Fatalf("after step %q", s.name)
		}
		t.Logf("%s: %s", s.name, time.Since(began).Round(time.Millisecond))
	}
	for _, one := range m.Members {
		if v, err := versionsOf(one); err != nil || v.EtcdCluster != minor+".0" {
			t.Errorf("%s: %+v %v, the cluster is not at %s any more", one.Name, v, err, minor)
		}
	}
	for _, one := range m.Members { // the old program again, on every directory
		replace(t, one, m.etcd)
		m.put(one.Client(), "back-"+one.Name, 5)
	}
	sameEverywhere(t, m.Cluster)
}

func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// put writes n keys.
func (m *mixed) put(cli *clientv3.Client, prefix string, n int) {
	m.t.Helper()
	ctx, cancel := within(20 * time.Second)
	defer cancel()
	for i := range n {
		_, err := cli.Put(ctx, fmt.Sprintf("%s/%d", prefix, i), "x")
		must(m.t, err)
	}
}

// putMany writes n keys, many at a time.
func (m *mixed) putMany(cli *clientv3.Client, prefix string, n int) {
	m.t.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for w := range 64 {
		wg.Go(func() {
			ctx, cancel := within(time.Minute)
			defer cancel()
			for i := w; i < n; i += 64 {
				if _, err := cli.Put(ctx, fmt.Sprintf("%s/%d", prefix, i%500), "x"); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		m.t.Fatal(err)
	default:
	}
}

func (m *mixed) puts() {
	for i := range m.Members {
		cli := m.Client(i)
		m.put(cli, fmt.Sprintf("at-%d", i), 30)
		ctx, cancel := within(5 * time.Second)
		_, err := cli.Delete(ctx, fmt.Sprintf("at-%d/1", i), clientv3.WithPrefix())
		must(m.t, err)
		_, err = cli.Put(ctx, fmt.Sprintf("at-%d/0", i), "", clientv3.WithIgnoreValue())
		must(m.t, err)
		for j := range m.Members { // read what was just written, at another member
			got, err := m.Client(j).Get(ctx, fmt.Sprintf("at-%d/0", i))
			must(m.t, err)
			if len(got.Kvs) != 1 || got.Kvs[0].Version != 2 {
				m.t.Errorf("written at m%d, read at m%d: %v", i+1, j+1, got.Kvs)
			}
		}
		cancel()
	}
}

func (m *mixed) txns() {
	for i := range m.Members {
		cli := m.Client(i)
		ctx, cancel := within(10 * time.Second)
		key := fmt.Sprintf("txn-%d", i)
		_, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, "new"), clientv3.OpPut(key+"/a", "1"), clientv3.OpGet(key)).Else(clientv3.OpGet(key)).Commit()
		must(m.t, err)
		inner := clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Value(key), "=", "new")},
			[]clientv3.Op{clientv3.OpPut(key, "inner"), clientv3.OpDelete(key+"/", clientv3.WithPrefix())}, nil)
		_, err = cli.Txn(ctx).If(clientv3.Compare(clientv3.Version("txn-").WithPrefix(), ">", 0)).
			Then(inner, clientv3.OpPut(key+"-b", "2")).Commit()
		must(m.t, err)
		// One that fails when it is applied must do so, or not, everywhere alike. Of etcd
		// up to 3.6 the originator differs from the others then (trap 1); ours must not.
		if i > 0 && m.minor != "3.7" {
			cancel()
			continue
		}
		now, err := cli.Get(ctx, key)
		must(m.t, err)
		_, err = cli.Txn(ctx).Then(clientv3.OpPut(key+"-c", "3"), clientv3.OpGet(key, clientv3.WithRev(now.Header.Revision+1000))).Commit()
		if err == nil {
			m.t.Errorf("m%d: a txn that reads the future succeeds", i+1)
		}
		cancel()
	}
}

func (m *mixed) leasesExpire() {
	ctx, cancel := within(30 * time.Second)
	defer cancel()
	var kept clientv3.LeaseID
	for i := range m.Members {
		cli := m.Client(i)
		l, err := cli.Grant(ctx, 2)
		must(m.t, err)
		_, err = cli.Put(ctx, fmt.Sprintf("expires/%d", i), "x", clientv3.WithLease(l.ID))
		must(m.t, err)
		k, err := cli.Grant(ctx, 4)
		must(m.t, err)
		_, err = cli.Put(ctx, fmt.Sprintf("kept/%d", i), "x", clientv3.WithLease(k.ID))
		must(m.t, err)
		kept = k.ID
		alive, err := cli.KeepAlive(ctx, k.ID) // renewed at this member, whoever leads
		must(m.t, err)
		go func() {
			for range alive { //nolint:revive // drained, so that renewing goes on
			}
		}()
	}
	must(m.t, cluster.Eventually(m.t, func(ctx context.Context) error {
		for i := range m.Members {
			r, err := m.Client(i).Get(ctx, "expires/", clientv3.WithPrefix())
			if err != nil {
				return err
			}
			if r.Count != 0 {
				return fmt.Errorf("m%d: %d keys of expired leases are there", i+1, r.Count)
			}
		}
		return nil
	}))
	for i := range m.Members {
		r, err := m.Client(i).Get(ctx, "kept/", clientv3.WithPrefix())
		must(m.t, err)
		if r.Count != int64(len(m.Members)) {
			m.t.Errorf("m%d: %d keys of renewed leases", i+1, r.Count)
		}
		ttl, err := m.Client(i).TimeToLive(ctx, kept)
		must(m.t, err)
		if ttl.TTL < 1 || ttl.GrantedTTL != 4 {
			m.t.Errorf("m%d: lease has %d s of %d", i+1, ttl.TTL, ttl.GrantedTTL)
		}
	}
}

// login connects to one member as a user.
func (m *mixed) login(i int, user, password string) (*clientv3.Client, error) {
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: m.Endpoints(i), Username: user, Password: password, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
	})
	if err == nil {
		m.t.Cleanup(func() { _ = cli.Close() })
	}
	return cli, err
}

// auth has users and roles made through every member, logs in at every member, and
// has a lease of a user expire (traps 6 and 7).
func (m *mixed) auth() {
	ctx, cancel := within(time.Minute)
	defer cancel()
	first := m.Client(0)
	_, err := first.UserAdd(ctx, "root", "rootpw")
	must(m.t, err)
	_, err = first.RoleAdd(ctx, "root")
	must(m.t, err)
	_, err = first.UserGrantRole(ctx, "root", "root")
	must(m.t, err)
	for i := range m.Members {
		cli, user := m.Client(i), fmt.Sprintf("u%d", i)
		_, err := cli.UserAdd(ctx, user, "old")
		must(m.t, err)
		_, err = cli.UserChangePassword(ctx, user, "pw"+user)
		must(m.t, err)
		_, err = cli.RoleAdd(ctx, user)
		must(m.t, err)
		_, err = cli.RoleGrantPermission(ctx, user, user+"/", clientv3.GetPrefixRangeEnd(user+"/"), clientv3.PermissionType(clientv3.PermReadWrite))
		must(m.t, err)
		_, err = cli.UserGrantRole(ctx, user, user)
		must(m.t, err)
	}
	_, err = m.Client(1).AuthEnable(ctx)
	must(m.t, err)
	for i := range m.Members {
		m.useAuth(ctx, i)
	}
	root, err := m.login(2, "root", "rootpw")
	must(m.t, err)
	// etcd waits for the same revision of users at every member; so must we.
	_, err = root.RoleRevokePermission(ctx, "u1", "u1/", clientv3.GetPrefixRangeEnd("u1/"))
	must(m.t, err)
	must(m.t, cluster.Eventually(m.t, func(ctx context.Context) error {
		for i := range m.Members {
			cli, err := m.login(i, "root", "rootpw")
			if err != nil {
				return err
			}
			r, err := cli.Get(ctx, "u0/leased", clientv3.WithCountOnly())
			if err != nil {
				return err
			}
			if r.Count != 0 {
				return fmt.Errorf("m%d: the key of an expired lease is there", i+1)
			}
		}
		return nil
	}))
	_, err = root.AuthDisable(ctx)
	must(m.t, err)
}

// useAuth is what each user can and cannot do at one member.
func (m *mixed) useAuth(ctx context.Context, at int) {
	m.t.Helper()
	for _, bad := range []string{"old", "", "x"} {
		if bad == "" {
			// the client takes no password for no login: nothing may be done then
			if _, err := m.Client(at).Get(ctx, "u0/x"); err == nil {
				m.t.Errorf("m%d: a read without a user", at+1)
			}
			continue
		}
		if _, err := m.login(at, "u0", bad); err == nil {
			m.t.Errorf("m%d: login with password %q", at+1, bad)
		}
	}
	for i := range m.Members {
		user := fmt.Sprintf("u%d", i)
		cli, err := m.login(at, user, "pw"+user)
		if err != nil {
			m.t.Errorf("m%d: login of %s: %v", at+1, user, err)
			continue
		}
		_, err = cli.Put(ctx, user+"/x", "1")
		must(m.t, err)
		_, err = cli.Put(ctx, "other", "1")
		if !errors.Is(err, rpctypes.ErrPermissionDenied) && !strings.Contains(fmt.Sprint(err), "permission denied") {
			m.t.Errorf("m%d: %s writes what is not its own: %v", at+1, user, err)
		}
		if i == 0 && at == 0 {
			l, err := cli.Grant(ctx, 3)
			must(m.t, err)
			_, err = cli.Put(ctx, "u0/leased", "1", clientv3.WithLease(l.ID))
			must(m.t, err)
		}
	}
}

func (m *mixed) compaction() {
	for i := range m.Members {
		cli := m.Client(i)
		m.put(cli, "c", 10)
		ctx, cancel := within(20 * time.Second)
		r, err := cli.Delete(ctx, "c/3")
		must(m.t, err)
		m.put(cli, "d", 3)
		_, err = cli.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical()) // at a tombstone (trap 2)
		must(m.t, err)
		sameEverywhere(m.t, m.Cluster)
		_, err = cli.Compact(ctx, r.Header.Revision)
		if !errors.Is(err, rpctypes.ErrCompacted) {
			m.t.Errorf("m%d: compacted twice: %v", i+1, err)
		}
		cancel()
	}
}

// killEach is kill -9 of each member in turn, while the others are written to.
func (m *mixed) killEach() {
	for i, one := range m.Members {
		one.Kill()
		other := m.Client((i+1)%len(m.Members), (i+2)%len(m.Members))
		must(m.t, cluster.Eventually(m.t, func(ctx context.Context) error {
			_, err := other.Put(ctx, "killed", one.Name)
			return err
		}))
		m.put(other, "killed", 20)
		one.Start()
		one.WaitHealthy()
		sameEverywhere(m.t, m.Cluster)
	}
}

// pauseLeader has the leader stand still until the others have another one.
func (m *mixed) pauseLeader() {
	l := m.Leader()
	m.Members[l].Pause()
	other := m.Client((l+1)%3, (l+2)%3)
	err := cluster.Eventually(m.t, func(ctx context.Context) error {
		_, err := other.Put(ctx, "paused", "x")
		return err
	})
	m.Members[l].Resume()
	must(m.t, err)
	m.Members[l].WaitHealthy()
	m.put(m.Client(l), "resumed", 10)
}

// trickle keeps writing while etcd leads, until the result is called: without a further
// entry an etcd that has taken a snapshot never comes up (see TestJoinsIdle).
func (m *mixed) trickle() (end func()) {
	if m.leads {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cli := m.Client(1)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			_, _ = cli.Put(ctx, "trickle", "x") // whether it succeeds is others' business
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// join adds a member and gives it the first snapshot.
func (m *mixed) join(b cluster.Binary, learner bool) *cluster.Member {
	m.t.Helper()
	defer m.trickle()()
	one := m.Join(b, learner)
	must(m.t, cluster.Eventually(m.t, func(ctx context.Context) error {
		if !one.Running() {
			m.t.Fatalf("%s (%s) ended:\n%s", one.Name, b.Name, one.LogTail(20))
		}
		_, err := one.Status(ctx)
		return err
	}))
	return one
}

// remove takes the last member out through another one; it must stop by itself.
func (m *mixed) remove(via int) {
	m.t.Helper()
	last := m.Members[len(m.Members)-1]
	id := last.ID()
	must(m.t, cluster.Eventually(m.t, func(ctx context.Context) error {
		_, err := m.Client(via).MemberRemove(ctx, id)
		if errors.Is(err, rpctypes.ErrMemberNotFound) {
			return nil
		}
		return err
	}))
	_ = last.WaitExit()
	m.Members = m.Members[:len(m.Members)-1]
	m.sameMembers()
}

// sameMembers waits until all members list the same members.
func (m *mixed) sameMembers() {
	m.t.Helper()
	must(m.t, cluster.Eventually(m.t, func(ctx context.Context) error {
		var first string
		for i := range m.Members {
			r, err := m.Client(i).MemberList(ctx)
			if err != nil {
				return err
			}
			slices.SortFunc(r.Members, func(a, b *pb.Member) int { return strings.Compare(a.Name, b.Name) })
			list := fmt.Sprint(len(r.Members), r.Members)
			if i == 0 {
				first = list
			}
			if list != first || len(r.Members) != len(m.Members) {
				return fmt.Errorf("m%d lists %s, m1 %s", i+1, list, first)
			}
		}
		return nil
	}))
}

// learner adds one of ours and one of theirs as learners, and promotes them.
func (m *mixed) learner() {
	if m.minor == "3.3" {
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		if _, err := m.Client(0).MemberAddAsLearner(ctx, []string{"http://127.0.0.1:1"}); err == nil {
			m.t.Error("a learner in a cluster that has members of 3.3")
		}
		m.sameMembers()
		return
	}
	for i, b := range []cluster.Binary{m.ours, m.etcd} {
		one := m.join(b, true)
		m.put(m.Client(0), "learning", 10)
		if _, err := m.Client(1).MemberAddAsLearner(context.Background(), []string{"http://127.0.0.1:1"}); err == nil {
			m.t.Error("a second learner (trap 25)")
		}
		must(m.t, cluster.Eventually(m.t, func(ctx context.Context) error {
			_, err := m.Client(i).MemberPromote(ctx, one.ID())
			return err
		}))
		one.WaitHealthy()
		m.sameMembers()
		m.put(one.Client(), "promoted", 5)
		sameEverywhere(m.t, m.Cluster)
		m.remove(1 - i)
	}
}

// replaceMember adds voters of both kinds with empty directories, and removes them.
func (m *mixed) replaceMember() {
	for i, b := range []cluster.Binary{m.ours, m.etcd} {
		one := m.join(b, false)
		one.WaitHealthy()
		m.sameMembers()
		m.put(one.Client(), "joined", 5)
		sameEverywhere(m.t, m.Cluster)
		m.remove(i)
	}
}

// behind stops a member until the log that it lacks is compacted.
func (m *mixed) behind(i int) {
	one := m.Members[i]
	one.Stop()
	m.putMany(m.Client((i+1)%3, (i+2)%3), "behind", 7000)  // either keeps 5000 entries, ours a few more
	m.put(m.Client((i+1)%3, (i+2)%3), "behind-still", 300) // it lets go in the background
	end := m.trickle()
	one.Start()
	one.WaitHealthy()
	end()
	sameEverywhere(m.t, m.Cluster)
	if log := one.Log(); !strings.Contains(log, "saved database snapshot") && !strings.Contains(log, "applied a received snapshot") {
		m.t.Errorf("%s caught up without a snapshot", one.Name)
	}
	m.sameMembers()
	one.Kill() // it must come back from what it received
	one.Start()
	one.WaitHealthy()
}

// snapshot makes a follower of the other kind than the leader need a snapshot.
func (m *mixed) snapshot() {
	if m.leads {
		m.behind(1)
	} else {
		m.behind(0)
	}
}

// snapshotBack is for the other kind.
func (m *mixed) snapshotBack() {
	if m.leads {
		m.behind(0)
	} else {
		m.behind(2)
	}
}

// killUnderLoad kills every member several times while a client writes.
func (m *mixed) killUnderLoad() {
	w := startWriter(m.t, m.Cluster, "under-load")
	for range 3 {
		for _, one := range m.Members {
			one.Kill()
			one.Start()
			one.WaitHealthy()
		}
	}
	w.check(m.Cluster)
}
