package auth_test

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"theseus/auth"
	"theseus/backend"
	"theseus/test/cluster"
)

// real is a member of etcd that root talks to.
type real struct {
	t     *testing.T
	m     *cluster.Member
	conn  *grpc.ClientConn
	auth  pb.AuthClient
	token string
}

func startReal(t *testing.T, minor string) *real {
	c := cluster.New(t, cluster.Options{Binary: cluster.Etcd(t, minor), Args: []string{"--bcrypt-cost=4", "--log-level=fatal"}})
	target := strings.TrimPrefix(c.Members[0].ClientURL(), "http://")
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &real{t: t, m: c.Members[0], conn: conn, auth: pb.NewAuthClient(conn)}
}

func (r *real) ctx(token string) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	r.t.Cleanup(cancel)
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "token", token)
	}
	return ctx
}

func (r *real) login(user, password string) string {
	resp, err := r.auth.Authenticate(r.ctx(""), &pb.AuthenticateRequest{Name: user, Password: password})
	if err != nil {
		r.t.Fatalf("log in as %s: %v", user, err)
	}
	return resp.Token
}

// do runs a call as root, logging in again when the token is void.
func (r *real) do(call func(ctx context.Context) error) error {
	for range 3 {
		err := call(r.ctx(r.token))
		if s := status.Convert(err).Message(); s == "etcdserver: invalid auth token" || s == "etcdserver: revision of auth store is old" || s == "etcdserver: user name is empty" && r.token == "" && r.enabled() {
			r.token = r.login("root", "root")
			continue
		}
		return err
	}
	r.t.Fatal("root cannot log in")
	return nil
}

func (r *real) enabled() bool {
	resp, err := r.auth.AuthStatus(r.ctx(""), &pb.AuthStatusRequest{})
	return err == nil && resp.Enabled
}

func text(err error) string {
	if err == nil {
		return "ok"
	}
	s := status.Convert(err)
	return fmt.Sprintf("%s: %s", s.Code(), s.Message())
}

// open returns a store in a new database, and a way to run changes in a unit.
func open(t *testing.T) (*auth.Store, func(func())) {
	s, _, unit := openWith(t)
	return s, unit
}

func openWith(t *testing.T) (*auth.Store, *backend.Backend, func(func())) {
	b, err := backend.Open(backend.Options{Path: t.TempDir() + "/db", NoSync: true, MapBytes: 1 << 28})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	s, err := auth.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	unit := func(f func()) { b.Begin(); f(); b.End() }
	unit(s.Init)
	return s, b, unit
}

var (
	someUsers = []string{"root", "u1", "u2", "u3", "none", ""}
	someRoles = []string{"root", "r1", "r2", "r3", "none", ""}
	someKeys  = []string{"", "\x00", "a", "a\x00", "ab", "b", "c", "d"}
	someEnds  = []string{"", "", "\x00", "a", "ab", "b", "c", "d", "e"}
)

func pick(rnd *rand.Rand, from []string) string { return from[rnd.Intn(len(from))] }

// step is one random operation, on both.
type step struct {
	name string
	real func(ctx context.Context, c pb.AuthClient) error
	ours func(s *auth.Store) error
}

func randomStep(rnd *rand.Rand) step {
	user, role := pick(rnd, someUsers), pick(rnd, someRoles)
	key, end := []byte(pick(rnd, someKeys)), []byte(pick(rnd, someEnds))
	switch rnd.Intn(12) {
	case 0:
		noPassword := rnd.Intn(4) == 0
		password := "p-" + user
		if noPassword {
			password = ""
		}
		return step{fmt.Sprintf("user add %q no-password=%v", user, noPassword), func(ctx context.Context, c pb.AuthClient) error {
			_, err := c.UserAdd(ctx, &pb.AuthUserAddRequest{Name: user, Password: password, Options: &authpb.UserAddOptions{NoPassword: noPassword}})
			return err
		}, func(s *auth.Store) error {
			return s.UserAdd(user, hash(password), &authpb.UserAddOptions{NoPassword: noPassword})
		}}
	case 1:
		return step{fmt.Sprintf("user delete %q", user), func(ctx context.Context, c pb.AuthClient) error {
			_, err := c.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: user})
			return err
		}, func(s *auth.Store) error { return s.UserDelete(user) }}
	case 2:
		password := "p-" + user
		if user == "root" {
			password = "root"
		}
		return step{fmt.Sprintf("user passwd %q", user), func(ctx context.Context, c pb.AuthClient) error {
			_, err := c.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: user, Password: password})
			return err
		}, func(s *auth.Store) error { return s.UserChangePassword(user, hash(password)) }}
	case 3, 4:
		return step{fmt.Sprintf("user grant %q %q", user, role), func(ctx context.Context, c pb.AuthClient) error {
			_, err := c.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: user, Role: role})
			return err
		}, func(s *auth.Store) error {
			_, err := s.UserGrantRole(user, role)
			return err
		}}
	case 5:
		return step{fmt.Sprintf("user revoke %q %q", user, role), func(ctx context.Context, c pb.AuthClient) error {
			_, err := c.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: user, Role: role})
			return err
		}, func(s *auth.Store) error { return s.UserRevokeRole(user, role) }}
	case 6:
		return step{fmt.Sprintf("role add %q", role), func(ctx context.Context, c pb.AuthClient) error {
			_, err := c.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: role})
			return err
		}, func(s *auth.Store) error { return s.RoleAdd(role) }}
	case 7:
		return step{fmt.Sprintf("role delete %q", role), func(ctx context.Context, c pb.AuthClient) error {
			_, err := c.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: role})
			return err
		}, func(s *auth.Store) error {
			_, err := s.RoleDelete(role)
			return err
		}}
	case 8, 9, 10:
		p := &authpb.Permission{PermType: authpb.Permission_Type(rnd.Intn(3)), Key: key, RangeEnd: end}
		if rnd.Intn(30) == 0 {
			p = nil
		}
		return step{fmt.Sprintf("role grant %q %v", role, p), func(ctx context.Context, c pb.AuthClient) error {
			_, err := c.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: p})
			return err
		}, func(s *auth.Store) error { return s.RoleGrantPermission(role, p) }}
	default:
		return step{fmt.Sprintf("role revoke %q %q %q", role, key, end), func(ctx context.Context, c pb.AuthClient) error {
			_, err := c.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: role, Key: key, RangeEnd: end})
			return err
		}, func(s *auth.Store) error { return s.RoleRevokePermission(role, key, end) }}
	}
}

func hash(password string) []byte {
	if password == "" {
		return nil
	}
	h, err := auth.HashPassword(password, 4)
	if err != nil {
		panic(err)
	}
	return h
}

// TestAgainstEtcd does the same to a real member and to the store, and compares
// every error, the revision, what is listed, and who may read what.
func TestAgainstEtcd(t *testing.T) {
	r := startReal(t, "3.7")
	s, b, unit := openWith(t)
	rnd := rand.New(rand.NewSource(7))
	setup := []string{}
	for i := range 250 {
		st := randomStep(rnd)
		if i == 60 || i == 200 {
			enable(t, r, s, unit)
		}
		if i == 190 {
			if err := r.do(func(ctx context.Context) error {
				_, err := r.auth.AuthDisable(ctx, &pb.AuthDisableRequest{})
				return err
			}); err != nil {
				t.Fatal(err)
			}
			unit(s.Disable)
		}
		theirs := r.do(func(ctx context.Context) error { return st.real(ctx, r.auth) })
		var ours error
		unit(func() { ours = st.ours(s) })
		setup = append(setup, st.name)
		if text(theirs) != text(ours) {
			t.Errorf("%d: %s: etcd answers %q, we %q", i, st.name, text(theirs), text(ours))
		}
		compareState(t, r, s)
		if s.Enabled() && i%10 == 0 {
			compareDecisions(t, r, s, rnd)
		}
		if t.Failed() {
			t.Fatalf("after\n%s", strings.Join(setup[max(0, len(setup)-30):], "\n"))
		}
	}
	r.m.Stop()
	compareBytes(t, r.m.Dir+"/member/snap/db", b)
}

// compareBytes compares the buckets, all but the hashes, which are salted.
func compareBytes(t *testing.T, path string, b *backend.Backend) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	n := 0
	_ = db.View(func(tx *bbolt.Tx) error {
		for _, bucket := range []backend.Bucket{auth.BucketAuth, auth.BucketUsers, auth.BucketRoles} {
			theirs := map[string]string{}
			_ = tx.Bucket([]byte(bucket)).ForEach(func(k, v []byte) error {
				theirs[string(k)] = withoutHash(bucket, v)
				n++
				return nil
			})
			ours := map[string]string{}
			_ = b.Scan(bucket, nil, nil, func(k, v []byte) bool {
				ours[string(k)] = withoutHash(bucket, v)
				return true
			})
			if d := cmp.Diff(theirs, ours); d != "" {
				t.Errorf("bucket %s (-etcd +ours):\n%s", bucket, d)
			}
		}
		return nil
	})
	if n < 5 {
		t.Errorf("only %d records compared", n)
	}
}

func withoutHash(bucket backend.Bucket, v []byte) string {
	if i := strings.Index(string(v), "$2a$"); bucket == auth.BucketUsers && i >= 0 {
		return string(v[:i]) + "hash" + string(v[i+60:])
	}
	return string(v)
}

// enable makes root what it must be, and turns authentication on.
func enable(t *testing.T, r *real, s *auth.Store, unit func(func())) {
	t.Helper()
	_, _ = r.auth.UserAdd(r.ctx(""), &pb.AuthUserAddRequest{Name: "root", Password: "root"})
	_, err := r.auth.UserChangePassword(r.ctx(""), &pb.AuthUserChangePasswordRequest{Name: "root", Password: "root"})
	if err != nil {
		t.Fatal(err)
	}
	theirs := func() error {
		_, err := r.auth.AuthEnable(r.ctx(""), &pb.AuthEnableRequest{})
		return err
	}
	unit(func() {
		_ = s.UserAdd("root", hash("root"), nil)
		_ = s.UserChangePassword("root", hash("root"))
	})
	first := theirs()
	unit(func() { err = s.Enable() })
	if text(first) != text(err) {
		t.Errorf("enable: etcd answers %q, we %q", text(first), text(err))
	}
	if err == nil {
		return
	}
	_, err = r.auth.UserGrantRole(r.ctx(""), &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	if err != nil {
		t.Fatal(err)
	}
	unit(func() {
		if _, err = s.UserGrantRole("root", "root"); err == nil {
			err = s.Enable()
		}
	})
	if e := theirs(); e != nil || err != nil {
		t.Fatalf("enable: etcd %v, we %v", e, err)
	}
}

func compareState(t *testing.T, r *real, s *auth.Store) {
	t.Helper()
	var st *pb.AuthStatusResponse
	var users *pb.AuthUserListResponse
	var roles *pb.AuthRoleListResponse
	err := r.do(func(ctx context.Context) (err error) {
		if st, err = r.auth.AuthStatus(ctx, &pb.AuthStatusRequest{}); err == nil {
			if users, err = r.auth.UserList(ctx, &pb.AuthUserListRequest{}); err == nil {
				roles, err = r.auth.RoleList(ctx, &pb.AuthRoleListRequest{})
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if st.AuthRevision != s.Revision() || st.Enabled != s.Enabled() {
		t.Errorf("etcd: revision %d, enabled %v; we: %d, %v", st.AuthRevision, st.Enabled, s.Revision(), s.Enabled())
	}
	if !slices.Equal(users.Users, s.Users()) || !slices.Equal(roles.Roles, s.Roles()) {
		t.Errorf("etcd has users %q roles %q, we %q %q", users.Users, roles.Roles, s.Users(), s.Roles())
	}
	for _, name := range someRoles {
		var resp *pb.AuthRoleGetResponse
		theirs := r.do(func(ctx context.Context) (err error) {
			resp, err = r.auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: name})
			return err
		})
		perms, err := s.RoleGet(name)
		if text(theirs) != text(err) || !slices.EqualFunc(resp.GetPerm(), perms, samePermission) {
			t.Errorf("role %q: etcd %v %q, we %v %q", name, resp.GetPerm(), text(theirs), perms, text(err))
		}
	}
	for _, name := range someUsers {
		var resp *pb.AuthUserGetResponse
		theirs := r.do(func(ctx context.Context) (err error) {
			resp, err = r.auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: name})
			return err
		})
		has, err := s.UserGet(name)
		if text(theirs) != text(err) || !slices.Equal(resp.GetRoles(), has) {
			t.Errorf("user %q: etcd %v %q, we %v %q", name, resp.GetRoles(), text(theirs), has, text(err))
		}
	}
}

// compareDecisions reads and writes every interval as each user that can log in.
func compareDecisions(t *testing.T, r *real, s *auth.Store, rnd *rand.Rand) {
	t.Helper()
	kv := pb.NewKVClient(r.conn)
	for _, user := range []string{"u1", "u2", "u3"} {
		resp, err := r.auth.Authenticate(r.ctx(""), &pb.AuthenticateRequest{Name: user, Password: "p-" + user})
		if _, mine := s.CheckPassword(user, "p-"+user); text(mine) != text(err) {
			t.Errorf("log in as %s: etcd %q, we %q", user, text(err), text(mine))
		}
		if err != nil {
			continue
		}
		for range 40 {
			key, end := pick(rnd, someKeys[1:]), pick(rnd, someEnds)
			if end != "" && end != "\x00" && key >= end {
				continue // see grants.cover
			}
			_, theirs := kv.Range(r.ctx(resp.Token), &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end), Serializable: true})
			ours := s.Check(user, s.Revision(), []byte(key), []byte(end), authpb.READ)
			if text(theirs) != text(ours) {
				t.Errorf("%s reads [%q, %q): etcd %q, we %q %s", user, key, end, text(theirs), text(ours), perms(s, user))
			}
			_, theirs = kv.DeleteRange(r.ctx(resp.Token), &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
			ours = s.Check(user, s.Revision(), []byte(key), []byte(end), authpb.WRITE)
			if text(theirs) != text(ours) {
				t.Errorf("%s deletes [%q, %q): etcd %q, we %q %s", user, key, end, text(theirs), text(ours), perms(s, user))
			}
		}
	}
}

func perms(s *auth.Store, user string) string {
	out := ""
	roles, _ := s.UserGet(user)
	for _, r := range roles {
		ps, _ := s.RoleGet(r)
		for _, p := range ps {
			out += fmt.Sprintf(" %d[%q %q)", p.PermType, p.Key, p.RangeEnd)
		}
	}
	return out
}

func samePermission(a, b *authpb.Permission) bool { return proto.Equal(a, b) }
