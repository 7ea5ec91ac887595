package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
	"theseus/auth"
	"theseus/version"
)

// Credentials are what a call brought to prove who asks: a token (without the
// "Bearer " in front), or the common name of a verified client certificate when
// client-cert-auth is on. A token wins.
type Credentials struct{ Token, CommonName string }

type credentialsKey struct{}

// WithCredentials returns a context whose requests are made by c.
func WithCredentials(ctx context.Context, c Credentials) context.Context {
	if c == (Credentials{}) {
		return ctx
	}
	return context.WithValue(ctx, credentialsKey{}, c)
}

func credentials(ctx context.Context) Credentials {
	c, _ := ctx.Value(credentialsKey{}).(Credentials)
	return c
}

// AuthorizeRange reports whether the caller may read the interval now; watch
// creation asks it. nil while authentication is off.
func (s *Server) AuthorizeRange(ctx context.Context, key, end []byte) error {
	h, err := s.identify(ctx, credentials(ctx))
	if err != nil {
		return err
	}
	return s.holding(func(st *store) error {
		return st.mach.Auth().Check(h.Username, h.AuthRevision, key, end, authpb.READ)
	})
}

// adminOnly is the check of requests that change users and roles.
func adminOnly(st *store, h *pb.RequestHeader) error { return st.mach.Auth().CheckAdmin(h.Username) }

// AuthEnable turns authentication on.
func (s *Server) AuthEnable(ctx context.Context, r *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	m, err := s.request(ctx, fieldAuthEnable, encoded(r, nil), adminOnly)
	return answer[*pb.AuthEnableResponse](m, err)
}

// AuthDisable turns authentication off.
func (s *Server) AuthDisable(ctx context.Context, r *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	m, err := s.request(ctx, fieldAuthDisable, encoded(r, nil), adminOnly)
	return answer[*pb.AuthDisableResponse](m, err)
}

// AuthStatus tells whether authentication is on, and its revision.
func (s *Server) AuthStatus(ctx context.Context, _ *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	if err := s.LinearizableReadNotify(ctx); err != nil {
		return nil, err
	}
	a := s.store.Load().mach.Auth()
	return &pb.AuthStatusResponse{Header: s.Header(0), Enabled: a.Enabled(), AuthRevision: a.Revision()}, nil
}

// Authenticate checks a password and gives a token.
func (s *Server) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	if err := s.LinearizableReadNotify(ctx); err != nil {
		return nil, err
	}
	for {
		a := s.store.Load().mach.Auth()
		rev, err := a.CheckPassword(r.Name, r.Password)
		if err != nil {
			return nil, err
		}
		if s.tokens.jwt != nil {
			token, err := s.tokens.jwt.Sign(r.Name, rev, time.Now())
			if err != nil {
				return nil, err
			}
			return &pb.AuthenticateResponse{Header: s.Header(0), Token: token}, nil
		}
		body := encoded(&pb.InternalAuthenticateRequest{Name: r.Name, SimpleToken: s.newToken()}, nil)
		o := s.requestAs(ctx, &pb.RequestHeader{}, fieldAuthenticate, body, nil)
		if o.Err != nil {
			return nil, o.Err
		}
		if s.authRevision() == rev {
			return o.Resp.(*pb.AuthenticateResponse), nil
		}
		s.log.Info("revision when password checked became stale; retrying")
	}
}

// hashed prepares a password for the log: hashed by us when every member takes a
// hash, else as it is, since older members hash for themselves (interop 7.5).
func (s *Server) hashed(password string, none bool) (plain, hash string, err error) {
	if !s.allowed(version.HashedPassword) || none {
		return password, "", nil
	}
	b, err := auth.HashPassword(password, s.o.BcryptCost)
	if err != nil {
		return "", "", err
	}
	return "", base64.StdEncoding.EncodeToString(b), nil
}

// UserAdd adds a user.
func (s *Server) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	none := r.Options.GetNoPassword()
	switch {
	case r.Name == "":
		return nil, api.ErrUserEmpty
	case none && r.Password != "":
		return nil, api.ErrNoPasswordUser
	case none && !s.allowed(version.NoPasswordUser):
		return nil, api.ErrNotCapable
	}
	plain, hash, err := s.hashed(r.Password, none)
	if err != nil {
		return nil, err
	}
	entry := &pb.AuthUserAddRequest{Name: r.Name, Password: plain, HashedPassword: hash, Options: r.Options}
	m, err := s.request(ctx, fieldUserAdd, encoded(entry, nil), adminOnly)
	return answer[*pb.AuthUserAddResponse](m, err)
}

// UserGet describes a user; everybody may ask for himself.
func (s *Server) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	resp := &pb.AuthUserGetResponse{}
	err := s.lookAt(ctx, func(a *auth.Store, user string) error {
		if user == r.Name {
			return nil
		}
		return a.CheckAdmin(user)
	}, func(a *auth.Store) (err error) { resp.Roles, err = a.UserGet(r.Name); return err })
	if err != nil {
		return nil, err
	}
	resp.Header = s.Header(0)
	return resp, nil
}

// lookAt reads users and roles as they are now, if allow lets who asks.
func (s *Server) lookAt(ctx context.Context, allow func(a *auth.Store, user string) error, fn func(a *auth.Store) error) error {
	if err := s.LinearizableReadNotify(ctx); err != nil {
		return err
	}
	h, err := s.identify(ctx, credentials(ctx))
	if err != nil {
		return err
	}
	a := s.store.Load().mach.Auth()
	if a.Enabled() {
		if err := allow(a, h.Username); err != nil {
			return err
		}
	}
	return fn(a)
}

func allowAdmin(a *auth.Store, user string) error { return a.CheckAdmin(user) }

// UserList lists users.
func (s *Server) UserList(ctx context.Context, _ *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	resp := &pb.AuthUserListResponse{}
	if err := s.lookAt(ctx, allowAdmin, func(a *auth.Store) error { resp.Users = a.Users(); return nil }); err != nil {
		return nil, err
	}
	resp.Header = s.Header(0)
	return resp, nil
}

// UserDelete deletes a user.
func (s *Server) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	m, err := s.request(ctx, fieldUserDelete, encoded(r, nil), adminOnly)
	return answer[*pb.AuthUserDeleteResponse](m, err)
}

// UserChangePassword sets a user's password.
func (s *Server) UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	plain, hash, err := s.hashed(r.Password, false)
	if err != nil {
		return nil, err
	}
	entry := &pb.AuthUserChangePasswordRequest{Name: r.Name, Password: plain, HashedPassword: hash}
	m, err := s.request(ctx, fieldUserChange, encoded(entry, nil), adminOnly)
	return answer[*pb.AuthUserChangePasswordResponse](m, err)
}

// UserGrantRole gives a user a role.
func (s *Server) UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	m, err := s.request(ctx, fieldUserGrant, encoded(r, nil), adminOnly)
	return answer[*pb.AuthUserGrantRoleResponse](m, err)
}

// UserRevokeRole takes a role from a user.
func (s *Server) UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	m, err := s.request(ctx, fieldUserRevoke, encoded(r, nil), adminOnly)
	return answer[*pb.AuthUserRevokeRoleResponse](m, err)
}

// RoleAdd adds a role.
func (s *Server) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	if r.Name == "" {
		return nil, api.ErrRoleEmpty
	}
	m, err := s.request(ctx, fieldRoleAdd, encoded(r, nil), adminOnly)
	return answer[*pb.AuthRoleAddResponse](m, err)
}

// RoleGet describes a role; everybody may ask for his own.
func (s *Server) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	resp := &pb.AuthRoleGetResponse{}
	err := s.lookAt(ctx, func(a *auth.Store, user string) error {
		if a.HasRole(user, r.Role) {
			return nil
		}
		return a.CheckAdmin(user)
	}, func(a *auth.Store) (err error) { resp.Perm, err = a.RoleGet(r.Role); return err })
	if err != nil {
		return nil, err
	}
	resp.Header = s.Header(0)
	return resp, nil
}

// RoleList lists roles.
func (s *Server) RoleList(ctx context.Context, _ *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	resp := &pb.AuthRoleListResponse{}
	if err := s.lookAt(ctx, allowAdmin, func(a *auth.Store) error { resp.Roles = a.Roles(); return nil }); err != nil {
		return nil, err
	}
	resp.Header = s.Header(0)
	return resp, nil
}

// RoleDelete deletes a role.
func (s *Server) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	m, err := s.request(ctx, fieldRoleDelete, encoded(r, nil), adminOnly)
	return answer[*pb.AuthRoleDeleteResponse](m, err)
}

// RoleGrantPermission gives a role a permission. What an older member would take
// differently, or die of, is refused here (interop 7.4).
func (s *Server) RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	switch p := r.Perm; {
	case p == nil:
		return nil, api.ErrPermissionNotGiven
	case len(p.RangeEnd) > 0 && !bytes.Equal(p.RangeEnd, []byte{0}) && bytes.Compare(p.Key, p.RangeEnd) >= 0:
		return nil, api.ErrInvalidAuthMgmt
	}
	m, err := s.request(ctx, fieldRoleGrant, encoded(r, nil), adminOnly)
	return answer[*pb.AuthRoleGrantPermissionResponse](m, err)
}

// RoleRevokePermission takes a permission from a role.
func (s *Server) RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	m, err := s.request(ctx, fieldRoleRevoke, encoded(r, nil), adminOnly)
	return answer[*pb.AuthRoleRevokePermissionResponse](m, err)
}
