package machine

import (
	"encoding/base64"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/auth"
	"theseus/backend"
)

func (m *Machine) authEnable(c *call) error {
	return c.answer(m.auth.Enable(), func() proto.Message { return &pb.AuthEnableResponse{Header: m.header()} })
}

func (m *Machine) authDisable(c *call) error {
	if m.auth.Enabled() {
		m.auth.Disable()
		c.effect(TokensDropped{})
	}
	return c.answer(nil, func() proto.Message { return &pb.AuthDisableResponse{Header: m.header()} })
}

func (m *Machine) authStatus(c *call) error {
	return c.answer(nil, func() proto.Message {
		return &pb.AuthStatusResponse{Header: m.header(), Enabled: m.auth.Enabled(), AuthRevision: m.auth.Revision()}
	})
}

// authenticate makes a simple token: its name holds the index of this entry, so that
// every member knows it under the same name. The password was checked by the proposer.
func (m *Machine) authenticate(c *call) error {
	var r pb.InternalAuthenticateRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	if err := m.auth.Login(r.Name); err != nil {
		return c.refuse(err)
	}
	token := auth.SimpleToken(r.SimpleToken, c.index)
	c.effect(TokenAssigned{Token: token, User: r.Name})
	return c.answer(nil, func() proto.Message { return &pb.AuthenticateResponse{Header: m.header(), Token: token} })
}

func (m *Machine) userAdd(c *call) error {
	var r pb.AuthUserAddRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	hash, err := m.passwordHash(r.HashedPassword, r.Password, r.Options.GetNoPassword())
	err = first(storable(r.Name), err)
	if err == nil {
		err = m.auth.UserAdd(r.Name, hash, r.Options)
	}
	return c.answer(err, func() proto.Message { return &pb.AuthUserAddResponse{Header: m.header()} })
}

// passwordHash is what is stored: what the proposer hashed; or, of a proposer of 3.4
// or older, the hash of the plain password, made here and so not the same on two
// members (interop 7.5); or nothing.
func (m *Machine) passwordHash(hashed, plain string, none bool) ([]byte, error) {
	if none {
		return nil, nil
	}
	if hashed == "" {
		return m.o.HashPassword(plain)
	}
	hash, err := base64.StdEncoding.DecodeString(hashed)
	if err != nil {
		return nil, fmt.Errorf("decode hashed password: %w", err)
	}
	return hash, nil
}

// storable refuses a name that no database takes as a key. etcd dies of one.
func storable(name string) error {
	if len(name) > backend.MaxKeyBytes {
		return api.ErrRequestTooLarge
	}
	return nil
}

func (m *Machine) userDelete(c *call) error {
	var r pb.AuthUserDeleteRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	err := m.auth.UserDelete(r.Name)
	c.dropTokens(err, r.Name)
	return c.answer(err, func() proto.Message { return &pb.AuthUserDeleteResponse{Header: m.header()} })
}

// dropTokens voids the tokens of a user who has changed.
func (c *call) dropTokens(err error, users ...string) {
	if err != nil {
		return
	}
	for _, u := range users {
		c.effect(TokensDropped{User: u})
	}
}

func (m *Machine) userChangePassword(c *call) error {
	var r pb.AuthUserChangePasswordRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	hash, err := m.passwordHash(r.HashedPassword, r.Password, false)
	if err == nil {
		err = m.auth.UserChangePassword(r.Name, hash)
	}
	c.dropTokens(err, r.Name)
	return c.answer(err, func() proto.Message { return &pb.AuthUserChangePasswordResponse{Header: m.header()} })
}

func (m *Machine) userGrantRole(c *call) error {
	var r pb.AuthUserGrantRoleRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	changed, err := m.auth.UserGrantRole(r.User, r.Role)
	if changed {
		c.dropTokens(err, r.User)
	}
	return c.answer(err, func() proto.Message { return &pb.AuthUserGrantRoleResponse{Header: m.header()} })
}

func (m *Machine) userRevokeRole(c *call) error {
	var r pb.AuthUserRevokeRoleRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	err := m.auth.UserRevokeRole(r.Name, r.Role)
	c.dropTokens(err, r.Name)
	return c.answer(err, func() proto.Message { return &pb.AuthUserRevokeRoleResponse{Header: m.header()} })
}

// userGet is for root, and for the user itself.
func (m *Machine) userGet(c *call) error {
	var r pb.AuthUserGetRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	if err := m.auth.CheckAdmin(c.user); err != nil && r.Name != c.user {
		return c.refuse(err)
	}
	roles, err := m.auth.UserGet(r.Name)
	return c.answer(err, func() proto.Message { return &pb.AuthUserGetResponse{Header: m.header(), Roles: roles} })
}

func (m *Machine) userList(c *call) error {
	return c.answer(nil, func() proto.Message { return &pb.AuthUserListResponse{Header: m.header(), Users: m.auth.Users()} })
}

func (m *Machine) roleList(c *call) error {
	return c.answer(nil, func() proto.Message { return &pb.AuthRoleListResponse{Header: m.header(), Roles: m.auth.Roles()} })
}

func (m *Machine) roleAdd(c *call) error {
	var r pb.AuthRoleAddRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	err := storable(r.Name)
	if err == nil {
		err = m.auth.RoleAdd(r.Name)
	}
	return c.answer(err, func() proto.Message { return &pb.AuthRoleAddResponse{Header: m.header()} })
}

func (m *Machine) roleDelete(c *call) error {
	var r pb.AuthRoleDeleteRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	users, err := m.auth.RoleDelete(r.Role)
	c.dropTokens(err, users...)
	return c.answer(err, func() proto.Message { return &pb.AuthRoleDeleteResponse{Header: m.header()} })
}

// roleGet is for root, and for those who have the role.
func (m *Machine) roleGet(c *call) error {
	var r pb.AuthRoleGetRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	if err := m.auth.CheckAdmin(c.user); err != nil && !m.auth.HasRole(c.user, r.Role) {
		return c.refuse(err)
	}
	perms, err := m.auth.RoleGet(r.Role)
	return c.answer(err, func() proto.Message { return &pb.AuthRoleGetResponse{Header: m.header(), Perm: perms} })
}

func (m *Machine) roleGrantPermission(c *call) error {
	var r pb.AuthRoleGrantPermissionRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	err := m.auth.RoleGrantPermission(r.Name, r.Perm)
	return c.answer(err, func() proto.Message { return &pb.AuthRoleGrantPermissionResponse{Header: m.header()} })
}

func (m *Machine) roleRevokePermission(c *call) error {
	var r pb.AuthRoleRevokePermissionRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	err := m.auth.RoleRevokePermission(r.Role, r.Key, r.RangeEnd)
	return c.answer(err, func() proto.Message { return &pb.AuthRoleRevokePermissionResponse{Header: m.header()} })
}
