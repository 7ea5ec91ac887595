package server

import (
	"context"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
)

// as returns a context in which a user is logged in at the member.
func (m *testMember) as(user, password string) context.Context {
	m.t.Helper()
	resp, err := m.Authenticate(m.context(), &pb.AuthenticateRequest{Name: user, Password: password})
	if err != nil {
		m.t.Fatalf("log in as %s at %s: %v", user, m.o.Name, err)
	}
	return WithCredentials(m.context(), Credentials{Token: resp.Token})
}

// enableAuth makes root and a user alice, who may read and write keys from a to b.
func (m *testMember) enableAuth() {
	m.t.Helper()
	ctx := m.context()
	for _, name := range []string{"root", "alice"} {
		_, err := m.UserAdd(ctx, &pb.AuthUserAddRequest{Name: name, Password: name})
		must(m.t, err)
	}
	_, err := m.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "ab"})
	must(m.t, err)
	_, err = m.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "ab",
		Perm: &authpb.Permission{PermType: authpb.READWRITE, Key: []byte("a"), RangeEnd: []byte("b")}})
	must(m.t, err)
	_, err = m.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "alice", Role: "ab"})
	must(m.t, err)
	_, err = m.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	must(m.t, err)
	_, err = m.AuthEnable(ctx, &pb.AuthEnableRequest{})
	must(m.t, err)
}

func TestAuth(t *testing.T) {
	c := newCluster(t, 3, nil)
	lead, follower := c.leader(), c.follower()
	if _, err := lead.AuthEnable(lead.context(), &pb.AuthEnableRequest{}); err != api.ErrRootUserNotExist {
		t.Errorf("enable without root: %v", err)
	}
	if _, err := lead.Authenticate(lead.context(), &pb.AuthenticateRequest{Name: "x"}); err != api.ErrAuthNotEnabled {
		t.Errorf("log in without authentication: %v", err)
	}
	lead.enableAuth()

	anonymous, alice, root := follower.context(), follower.as("alice", "alice"), follower.as("root", "root")
	bad := WithCredentials(follower.context(), Credentials{Token: "nonsense.1"})
	byName := WithCredentials(follower.context(), Credentials{CommonName: "alice"})
	for _, tt := range []struct {
		who  string
		ctx  context.Context
		key  string
		want error
	}{
		{"nobody", anonymous, "a1", api.ErrUserEmpty},
		{"a bad token", bad, "a1", api.ErrInvalidAuthToken},
		{"alice", alice, "a1", nil},
		{"alice by her certificate", byName, "a1", nil},
		{"alice", alice, "b1", api.ErrPermissionDenied},
		{"root", root, "b1", nil},
	} {
		if _, err := follower.Put(tt.ctx, &pb.PutRequest{Key: []byte(tt.key)}, nil); err != tt.want {
			t.Errorf("%s puts %s: %v, want %v", tt.who, tt.key, err, tt.want)
		}
		if _, err := follower.Range(tt.ctx, &pb.RangeRequest{Key: []byte(tt.key)}); err != tt.want {
			t.Errorf("%s gets %s: %v, want %v", tt.who, tt.key, err, tt.want)
		}
		w := collector{}
		w.wg.Add(1)
		cr := credentials(tt.ctx)
		follower.StartPut(cr, &pb.PutRequest{Key: []byte(tt.key)}, nil, &w)
		w.wg.Wait()
		if err := w.got[0].Err; err != tt.want {
			t.Errorf("%s starts to put %s: %v, want %v", tt.who, tt.key, err, tt.want)
		}
	}
	// The token was made at a follower; it holds at the leader too.
	if _, err := lead.Range(alice, &pb.RangeRequest{Key: []byte("a1")}); err != nil {
		t.Errorf("the token at the leader: %v", err)
	}
	for what, err := range map[string]error{
		"compact":    second(follower.Compact(alice, &pb.CompactionRequest{Revision: 1})),
		"defragment": second(follower.Defragment(alice, &pb.DefragmentRequest{})),
		"member add": second(follower.MemberAdd(alice, &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:9"}})),
		"user list":  second(follower.UserList(alice, &pb.AuthUserListRequest{})),
		"user add":   second(follower.UserAdd(alice, &pb.AuthUserAddRequest{Name: "eve"})),
	} {
		if err != api.ErrPermissionDenied {
			t.Errorf("alice does %s: %v", what, err)
		}
	}
	if own, err := follower.UserGet(alice, &pb.AuthUserGetRequest{Name: "alice"}); err != nil || len(own.Roles) != 1 {
		t.Errorf("alice looks at herself: %v, %v", own, err)
	}
	if _, err := follower.Authenticate(follower.context(), &pb.AuthenticateRequest{Name: "alice", Password: "wrong"}); err != api.ErrAuthFailed {
		t.Errorf("a wrong password: %v", err)
	}
	if _, err := follower.UserChangePassword(root, &pb.AuthUserChangePasswordRequest{Name: "alice", Password: "new"}); err != nil {
		t.Fatal(err)
	}
	if _, err := follower.Range(alice, &pb.RangeRequest{Key: []byte("a1")}); err != api.ErrInvalidAuthToken {
		t.Errorf("a token from before the change of password: %v", err)
	}
	if _, err := lead.AuthDisable(lead.as("root", "root"), &pb.AuthDisableRequest{}); err != nil {
		t.Fatal(err)
	}
	lead.put("c", "free")
}

func second[T any](_ T, err error) error { return err }

// TestLeaseExpiresUnderAuth looks that the leader may revoke what it must.
func TestLeaseExpiresUnderAuth(t *testing.T) {
	m := newCluster(t, 1, nil).members[0]
	m.enableAuth()
	alice := m.as("alice", "alice")
	grant, err := m.LeaseGrant(alice, &pb.LeaseGrantRequest{TTL: 1})
	must(t, err)
	_, err = m.Put(alice, &pb.PutRequest{Key: []byte("a1"), Lease: grant.ID}, nil)
	must(t, err)
	(&testCluster{t: t}).eventually("the lease to expire", func() bool {
		res, err := m.Range(alice, &pb.RangeRequest{Key: []byte("a1")})
		return err == nil && res.Count == 0
	})
}

// TestDowngrade takes a member from 3.7 to 3.6 and starts it as one.
func TestDowngrade(t *testing.T) {
	c := newCluster(t, 1, func(_ int, o *Options) { o.DowngradeCheckTime = 20 * time.Millisecond })
	m := c.members[0]
	m.put("a", "1")
	is := func(cluster, storage string) func() bool {
		return func() bool { _, cv, st := m.Versions(); return cv == cluster && st == storage }
	}
	c.eventually("3.7", is("3.7.0", "3.7.0"))
	down := func(action pb.DowngradeRequest_DowngradeAction, v string) (string, error) {
		resp, err := m.Downgrade(m.context(), &pb.DowngradeRequest{Action: action, Version: v})
		return resp.GetVersion(), err
	}
	for v, want := range map[string]error{"3.8.0": api.ErrInvalidDowngradeTargetVersion, "x": api.ErrWrongDowngradeVersionFormat, "3.7": api.ErrInvalidDowngradeTargetVersion, "3.6": nil} {
		if got, err := down(pb.DowngradeRequest_VALIDATE, v); err != want || err == nil && got != "3.7" {
			t.Errorf("validate %s: %q, %v, want %v", v, got, err, want)
		}
	}
	if _, err := down(pb.DowngradeRequest_ENABLE, "3.6"); err != nil {
		t.Fatal(err)
	}
	if _, err := down(pb.DowngradeRequest_ENABLE, "3.6"); err != api.ErrDowngradeInProcess && err != api.ErrInvalidDowngradeTargetVersion {
		t.Errorf("a second downgrade: %v", err)
	}
	c.eventually("3.6", is("3.6.0", "3.6.0"))
	m.stop()
	m.o.EmulateVersion = "3.6.0"
	m.start()
	if got := m.get("a"); got != "1" {
		t.Errorf("a = %q", got)
	}
	c.eventually("the end of the downgrade", func() bool { return !m.members().Downgrade().Enabled })
	if !is("3.6.0", "3.6.0")() {
		t.Error("the version has moved")
	}
	m.stop()
	m.o.EmulateVersion = ""
	m.start()
	c.eventually("3.7 again", is("3.7.0", "3.7.0"))
}
