package auth_test

import (
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/testing/protocmp"

	"theseus/api"
	"theseus/auth"
)

// dumb is a model of who may do what: a list of permissions for each role, and the
// roles of each user, looked through anew for every question.
type dumb struct {
	users map[string][]string
	roles map[string][]*authpb.Permission
}

// points are the places where anything can begin or end, in order; "~" stands for
// the end of all keys.
var points = []string{"\x00", "\x00\x00", "a", "a\x00", "a\x00\x00", "ab", "ab\x00", "b", "b\x00", "c", "c\x00", "d", "d\x00", "e", "~"}

// segments are the pieces between points that an interval consists of.
func segments(key, end string) (out []string) {
	switch end {
	case "":
		end = key + "\x00"
	case "\x00":
		end = "~"
	}
	for _, p := range points[:len(points)-1] {
		if p >= key && p < end {
			out = append(out, p)
		}
	}
	return out
}

func (d *dumb) may(user, key, end string, perm authpb.Permission_Type) bool {
	if slices.Contains(d.users[user], "root") {
		return true
	}
	granted := map[string]bool{}
	for _, role := range d.users[user] {
		for _, p := range d.roles[role] {
			if p.PermType == perm || p.PermType == authpb.READWRITE {
				for _, s := range segments(string(p.Key), string(p.RangeEnd)) {
					granted[s] = true
				}
			}
		}
	}
	for _, s := range segments(key, end) {
		if !granted[s] {
			return false
		}
	}
	return true
}

func TestDecisionsAgainstModel(t *testing.T) {
	keys := []string{"\x00", "a", "a\x00", "ab", "b", "c", "d"}
	ends := []string{"", "\x00", "ab", "b", "c", "d", "e"}
	s, unit := open(t)
	rnd := rand.New(rand.NewSource(1))
	d := &dumb{users: map[string][]string{"root": {"root"}, "u": nil, "v": nil}, roles: map[string][]*authpb.Permission{"r": nil, "s": nil, "t": nil}}
	unit(func() {
		for _, u := range []string{"root", "u", "v"} {
			must(t, s.UserAdd(u, nil, nil))
		}
		for _, r := range []string{"r", "s", "t"} {
			must(t, s.RoleAdd(r))
		}
		_, err := s.UserGrantRole("root", "root")
		must(t, err)
		must(t, s.Enable())
	})
	for range 3000 {
		user, role := pick(rnd, []string{"u", "v"}), pick(rnd, []string{"r", "s", "t"})
		key, end := pick(rnd, keys), pick(rnd, ends)
		backwards := end != "" && end != "\x00" && key >= end
		unit(func() { change(t, rnd, s, d, user, role, key, end, backwards) })
		if backwards {
			continue
		}
		for _, perm := range []authpb.Permission_Type{authpb.READ, authpb.WRITE} {
			err := s.Check(user, s.Revision(), []byte(key), []byte(end), perm)
			if want := d.may(user, key, end, perm); (err == nil) != want {
				t.Fatalf("%s on [%q, %q) by %s: %v, the model says %v\n%v", perm, key, end, user, err, want, d)
			}
		}
	}
}

func change(t *testing.T, rnd *rand.Rand, s *auth.Store, d *dumb, user, role, key, end string, backwards bool) {
	switch rnd.Intn(6) {
	case 0:
		_, err := s.UserGrantRole(user, role)
		must(t, err)
		if !slices.Contains(d.users[user], role) {
			d.users[user] = append(d.users[user], role)
		}
	case 1:
		if s.UserRevokeRole(user, role) == nil {
			d.users[user] = slices.DeleteFunc(d.users[user], func(r string) bool { return r == role })
		}
	case 2, 3:
		p := &authpb.Permission{PermType: authpb.Permission_Type(rnd.Intn(3)), Key: []byte(key), RangeEnd: []byte(end)}
		if err := s.RoleGrantPermission(role, p); (err != nil) != backwards {
			t.Fatalf("grant %v: %v", p, err)
		}
	case 4:
		_ = s.RoleRevokePermission(role, []byte(key), []byte(end))
	case 5:
		if rnd.Intn(10) == 0 {
			_, err := s.RoleDelete(role)
			must(t, err)
			must(t, s.RoleAdd(role))
			for u := range d.users {
				d.users[u] = slices.DeleteFunc(d.users[u], func(r string) bool { return r == role })
			}
		}
	}
	// What a role holds is taken from the store, so that the model is of decisions.
	perms, err := s.RoleGet(role)
	must(t, err)
	d.roles[role] = perms
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestReopen closes nothing in between: what a second store reads is what the first
// holds.
func TestReopen(t *testing.T) {
	s, b, unit := openWith(t)
	rnd := rand.New(rand.NewSource(3))
	for i := range 300 {
		unit(func() { _ = randomStep(rnd).ours(s) })
		if i == 100 {
			unit(func() {
				_ = s.UserAdd("root", nil, nil)
				_, _ = s.UserGrantRole("root", "root")
				must(t, s.Enable())
			})
		}
		if i%20 != 0 {
			continue
		}
		again, err := auth.Open(b)
		must(t, err)
		if again.Revision() != s.Revision() || again.Enabled() != s.Enabled() || !slices.Equal(again.Users(), s.Users()) || !slices.Equal(again.Roles(), s.Roles()) {
			t.Fatalf("after %d steps: reopened %d %v %v %v, was %d %v %v %v", i, again.Revision(), again.Enabled(), again.Users(), again.Roles(),
				s.Revision(), s.Enabled(), s.Users(), s.Roles())
		}
		for _, r := range s.Roles() {
			was, _ := s.RoleGet(r)
			is, err := again.RoleGet(r)
			must(t, err)
			if d := cmp.Diff(was, is, protocmp.Transform()); d != "" {
				t.Fatalf("role %s after reopening:\n%s", r, d)
			}
		}
	}
}

// TestCheckOrder pins which error comes first.
func TestCheckOrder(t *testing.T) {
	s, unit := open(t)
	if err := s.Check("nobody", 0, []byte("k"), nil, authpb.READ); err != nil {
		t.Fatalf("while off: %v", err)
	}
	if err := s.CheckAdmin(""); err != nil {
		t.Fatalf("while off: %v", err)
	}
	var err error
	unit(func() { err = s.Enable() })
	if err != api.ErrRootUserNotExist {
		t.Fatalf("enable without root: %v", err)
	}
	unit(func() {
		must(t, s.UserAdd("root", nil, nil))
		err = s.Enable()
	})
	if err != api.ErrRootRoleNotExist {
		t.Fatalf("enable without root's role: %v", err)
	}
	unit(func() {
		must(t, s.UserAdd("u", nil, nil))
		_, err = s.UserGrantRole("root", "root")
		must(t, err)
		must(t, s.Enable())
	})
	for _, c := range []struct {
		user string
		rev  uint64
		want error
	}{
		{"", 0, api.ErrUserEmpty}, {"root", 0, api.ErrUserEmpty}, {"root", s.Revision() - 1, api.ErrAuthOldRevision},
		{"", s.Revision(), api.ErrPermissionDenied}, {"u", s.Revision(), api.ErrPermissionDenied},
		{"root", s.Revision(), nil}, {"root", s.Revision() + 1, nil},
	} {
		if got := s.Check(c.user, c.rev, []byte("k"), nil, authpb.WRITE); got != c.want {
			t.Errorf("check %q at %d: %v, want %v", c.user, c.rev, got, c.want)
		}
	}
	for user, want := range map[string]error{"": api.ErrUserEmpty, "u": api.ErrPermissionDenied, "none": api.ErrPermissionDenied, "root": nil} {
		if got := s.CheckAdmin(user); got != want {
			t.Errorf("admin %q: %v, want %v", user, got, want)
		}
	}
}

func TestPasswords(t *testing.T) {
	s, unit := open(t)
	if _, err := s.CheckPassword("u", "p"); err != api.ErrAuthNotEnabled {
		t.Fatal(err)
	}
	unit(func() {
		must(t, s.UserAdd("root", hash("root"), nil))
		must(t, s.UserAdd("none", nil, &authpb.UserAddOptions{NoPassword: true}))
		_, err := s.UserGrantRole("root", "root")
		must(t, err)
		must(t, s.Enable())
	})
	for _, c := range []struct {
		user, password string
		want           error
	}{{"root", "root", nil}, {"root", "Root", api.ErrAuthFailed}, {"root", "", api.ErrAuthFailed}, {"who", "root", api.ErrAuthFailed}, {"none", "", api.ErrNoPasswordUser}} {
		if _, err := s.CheckPassword(c.user, c.password); err != c.want {
			t.Errorf("log in %q %q: %v, want %v", c.user, c.password, err, c.want)
		}
	}
}

func TestTokens(t *testing.T) {
	now := time.Unix(1000, 0)
	tokens := auth.NewTokens(10 * time.Second)
	tokens.Assign("a.1", "u", now)
	tokens.Assign("b.2", "v", now)
	tokens.Assign("c.3", "u", now)
	if u, ok := tokens.Lookup("a.1", now.Add(9*time.Second)); !ok || u != "u" {
		t.Fatal("a token was gone early")
	}
	if _, ok := tokens.Lookup("a.1", now.Add(18*time.Second)); !ok {
		t.Fatal("the use of a token did not prolong it")
	}
	if _, ok := tokens.Lookup("b.2", now.Add(10*time.Second)); ok {
		t.Fatal("a token outlived its time")
	}
	tokens.Expire(now.Add(10 * time.Second))
	if n := tokens.Len(); n != 1 {
		t.Fatalf("%d tokens left, want the prolonged one", n)
	}
	tokens.Assign("d.4", "v", now)
	tokens.Drop("u")
	if _, ok := tokens.Lookup("a.1", now); ok {
		t.Fatal("a dropped token is good")
	}
	if _, ok := tokens.Lookup("d.4", now); !ok {
		t.Fatal("the token of another user was dropped")
	}
	tokens.DropAll()
	if tokens.Len() != 0 {
		t.Fatal("tokens left")
	}
	for token, want := range map[string]uint64{"abc.17": 17, "abc": 0, ".5": 0, "abc.x": 0, "abc.-1": 0, "abc.1.2": 0} {
		if got, ok := auth.SimpleIndex(token); got != want || ok != (want != 0) {
			t.Errorf("index of %q: %d, %v", token, got, ok)
		}
	}
	if p := auth.SimplePrefix([16]byte{0, 25, 26, 51, 52}); p != "azAZaaaaaaaaaaaa" {
		t.Errorf("prefix %q", p)
	}
}
