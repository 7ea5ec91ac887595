package interop

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/test/cluster"
)

// facts are what a directory holds, as its server tells it.
type facts struct {
	Revision int64
	Hash     uint32 // of all keys and their history
	Compact  int64
	Keys     []string
	Leases   []string // id, granted TTL, attached keys
	Users    []string
	Roles    []string
	Members  []string
	Alarms   int
}

// ask reads the facts from one member.
func ask(t *testing.T, m *cluster.Member) facts {
	t.Helper()
	cli := m.Client()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	h, err := m.HashKV(ctx, 0)
	must(t, err)
	f := facts{Revision: h.Header.Revision, Hash: h.Hash, Compact: h.CompactRevision}
	all, err := cli.Get(ctx, "\x00", clientv3.WithFromKey())
	must(t, err)
	for _, kv := range all.Kvs {
		f.Keys = append(f.Keys, kv.String())
	}
	leases, err := cli.Leases(ctx)
	must(t, err)
	for _, l := range leases.Leases {
		ttl, err := cli.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
		must(t, err)
		slices.SortFunc(ttl.Keys, func(a, b []byte) int { return strings.Compare(string(a), string(b)) })
		f.Leases = append(f.Leases, fmt.Sprintf("%x %d %q", l.ID, ttl.GrantedTTL, ttl.Keys))
	}
	slices.Sort(f.Leases)
	users, err := cli.UserList(ctx)
	must(t, err)
	for _, u := range users.Users {
		got, err := cli.UserGet(ctx, u)
		must(t, err)
		f.Users = append(f.Users, fmt.Sprint(u, got.Roles))
	}
	roles, err := cli.RoleList(ctx)
	must(t, err)
	for _, r := range roles.Roles {
		got, err := cli.RoleGet(ctx, r)
		must(t, err)
		f.Roles = append(f.Roles, fmt.Sprint(r, got.Perm))
	}
	members, err := cli.MemberList(ctx)
	must(t, err)
	for _, m := range members.Members {
		f.Members = append(f.Members, fmt.Sprint(m.ID, m.Name, m.PeerURLs, m.ClientURLs, m.IsLearner))
	}
	alarms, err := cli.AlarmList(ctx)
	must(t, err)
	f.Alarms = len(alarms.Alarms)
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// furnish puts something of every kind into a cluster.
func furnish(t *testing.T, cli *clientv3.Client, round string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var last int64
	for i := range 20 {
		for v := range 3 {
			r, err := cli.Put(ctx, fmt.Sprintf("%s/%02d", round, i), fmt.Sprintf("v%d", v))
			must(t, err)
			last = r.Header.Revision
		}
	}
	_, err := cli.Delete(ctx, round+"/05")
	must(t, err)
	_, err = cli.Delete(ctx, round+"/1", clientv3.WithPrefix())
	must(t, err)
	_, err = cli.Txn(ctx).If(clientv3.Compare(clientv3.Version(round+"/01"), ">", 0)).
		Then(clientv3.OpPut(round+"/txn", "then"), clientv3.OpDelete(round+"/02")).Commit()
	must(t, err)
	l, err := cli.Grant(ctx, 5000)
	must(t, err)
	for _, k := range []string{"/leased/b", "/leased/a"} {
		_, err = cli.Put(ctx, round+k, "x", clientv3.WithLease(l.ID))
		must(t, err)
	}
	gone, err := cli.Grant(ctx, 5000)
	must(t, err)
	_, err = cli.Put(ctx, round+"/gone", "x", clientv3.WithLease(gone.ID))
	must(t, err)
	_, err = cli.Revoke(ctx, gone.ID)
	must(t, err)
	_, err = cli.Compact(ctx, last-10, clientv3.WithCompactPhysical())
	must(t, err)
	role := strings.ReplaceAll(round, "/", "-")
	_, err = cli.RoleAdd(ctx, role)
	must(t, err)
	_, err = cli.RoleGrantPermission(ctx, role, "a", "b", clientv3.PermissionType(clientv3.PermReadWrite))
	must(t, err)
	_, err = cli.UserAdd(ctx, role, "secret")
	must(t, err)
	_, err = cli.UserGrantRole(ctx, role, role)
	must(t, err)
	_, err = cli.Put(ctx, round+"/end", "")
	must(t, err)
}

// as returns Theseus speaking as an etcd of the given minor.
func as(t *testing.T, minor string) (cluster.Binary, []string) {
	return cluster.Theseus(t), []string{"--emulate-version", minor}
}

var minors = []string{"3.4", "3.5", "3.6", "3.7"}

// TestDirectoryThereAndBack: a directory that real etcd wrote is opened by
// Theseus with everything in it, written to, and opened by the real etcd again.
func TestDirectoryThereAndBack(t *testing.T) {
	for _, minor := range minors {
		t.Run(minor, func(t *testing.T) {
			real := cluster.Etcd(t, minor)
			c := cluster.New(t, cluster.Options{Binary: real})
			m := c.Members[0]
			furnish(t, m.Client(), "theirs")
			before := ask(t, m)
			m.Stop()

			m.Binary, m.Args = as(t, minor)
			m.Start()
			m.WaitHealthy()
			same(t, "Theseus on their directory", before, ask(t, m))
			furnish(t, m.Client(), "ours")
			ours := ask(t, m)
			m.Stop()

			m.Binary, m.Args = real, nil
			m.Start()
			m.WaitHealthy()
			same(t, "real etcd on our directory", ours, ask(t, m))
			furnish(t, m.Client(), "theirs again")
		})
	}
}

// TestDirectoryAfterKill is the same with kill -9 at each change of hands.
func TestDirectoryAfterKill(t *testing.T) {
	for _, minor := range minors {
		t.Run(minor, func(t *testing.T) {
			real := cluster.Etcd(t, minor)
			c := cluster.New(t, cluster.Options{Binary: real, Args: []string{"--snapshot-count", "50"}})
			m := c.Members[0]
			furnish(t, m.Client(), "theirs")
			before := ask(t, m)
			m.Kill()

			m.Binary, m.Args = as(t, minor)
			m.Start()
			m.WaitHealthy()
			same(t, "Theseus on their directory", before, ask(t, m))
			furnish(t, m.Client(), "ours")
			ours := ask(t, m)
			m.Kill()

			m.Binary, m.Args = real, nil
			m.Start()
			m.WaitHealthy()
			same(t, "real etcd on our directory", ours, ask(t, m))
		})
	}
}

// TestOnward: a young directory of an old etcd goes through Theseus to the newest real
// etcd. Its log has requests of the v2 kind, which that one dies on unless a snapshot
// covers them: Theseus makes one when it raises the storage.
func TestOnward(t *testing.T) {
	for _, minor := range []string{"3.4", "3.5", "3.6"} {
		t.Run(minor, func(t *testing.T) {
			c := cluster.New(t, cluster.Options{Binary: cluster.Etcd(t, minor)})
			m := c.Members[0]
			furnish(t, m.Client(), "theirs")
			before := ask(t, m)
			m.Stop()

			m.Binary = cluster.Theseus(t)
			m.Start()
			waitVersions(t, c, "3.7")
			must(t, cluster.Eventually(t, func(context.Context) error {
				if found, _ := filepath.Glob(filepath.Join(m.Dir, "member", "snap", "*.snap")); len(found) == 0 {
					return errors.New("no snapshot")
				}
				return nil
			}))
			same(t, "Theseus on their directory", before, ask(t, m))
			m.Stop()

			m.Binary = cluster.Etcd(t, "3.7")
			m.Start()
			m.WaitHealthy()
			same(t, "the newest etcd on the directory", before, ask(t, m))
		})
	}
}

func same(t *testing.T, what string, want, got facts) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s differs (-want +got):\n%s", what, diff)
	}
}

// TestOneOfThree replaces one member of a real cluster on its directory, writes
// through every member, compares hashes, and gives the directory back.
func TestOneOfThree(t *testing.T) {
	for _, minor := range minors {
		t.Run(minor, func(t *testing.T) {
			real := cluster.Etcd(t, minor)
			c := cluster.New(t, cluster.Options{Size: 3, Binary: real})
			furnish(t, c.Client(), "theirs")
			m := c.Members[1]
			m.Stop()
			m.Binary, m.Args = as(t, minor)
			m.Start()
			m.WaitHealthy()
			for i := range c.Members {
				furnish(t, c.Client(i), fmt.Sprintf("mixed-%d", i))
			}
			sameEverywhere(t, c)
			m.Stop()
			m.Binary, m.Args = real, nil
			m.Start()
			m.WaitHealthy()
			furnish(t, m.Client(), "back")
			sameEverywhere(t, c)
		})
	}
}

// sameEverywhere waits until all members are at one revision and compares their
// hashes there.
func sameEverywhere(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	var rev int64
	err := cluster.Eventually(t, func(ctx context.Context) error {
		hashes := map[string]bool{}
		for _, m := range c.Members {
			h, err := m.HashKV(ctx, rev)
			if err != nil {
				rev = 0 // a member that lagged gave one that the others have compacted
				return err
			}
			rev = max(rev, h.Header.Revision)
			hashes[fmt.Sprint(h.Header.Revision, " ", h.CompactRevision, " ", h.Hash)] = true
		}
		if len(hashes) != 1 {
			return fmt.Errorf("members differ: %v", hashes)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
