package auth

import (
	"bytes"
	"slices"
	"sort"

	"go.etcd.io/etcd/api/v3/authpb"

	"theseus/api"
)

// UserAdd adds a user; hash is what HashPassword returned, and nothing for a user
// without a password.
func (s *Store) UserAdd(name string, hash []byte, options *authpb.UserAddOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "" {
		return api.ErrUserEmpty
	}
	if s.users[name] != nil {
		return api.ErrUserAlreadyExist
	}
	if options == nil {
		options = &authpb.UserAddOptions{}
	}
	s.putUser(&authpb.User{Name: []byte(name), Password: hash, Options: options})
	s.commit()
	return nil
}

// UserDelete deletes a user.
func (s *Store) UserDelete(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.enabled.Load() && name == root {
		return api.ErrInvalidAuthMgmt
	}
	if s.users[name] == nil {
		return api.ErrUserNotFound
	}
	delete(s.users, name)
	s.b.Delete(BucketUsers, []byte(name))
	s.commit()
	return nil
}

// UserChangePassword sets a user's hash.
func (s *Store) UserChangePassword(name string, hash []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[name]
	if u == nil {
		return api.ErrUserNotFound
	}
	s.putUser(&authpb.User{Name: u.record.Name, Password: hash, Roles: u.record.Roles, Options: u.record.Options})
	s.commit()
	return nil
}

// UserGrantRole gives a user a role. One that the user has is no change, and no
// error; changed tells.
func (s *Store) UserGrantRole(name, role string) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[name]
	if u == nil {
		return false, api.ErrUserNotFound
	}
	if role != root && s.roles[role] == nil {
		return false, api.ErrRoleNotFound
	}
	i, has := slices.BinarySearch(u.record.Roles, role)
	if has {
		return false, nil
	}
	s.putRoles(u, slices.Insert(slices.Clone(u.record.Roles), i, role))
	s.commit()
	return true, nil
}

// UserRevokeRole takes a role from a user.
func (s *Store) UserRevokeRole(name, role string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.enabled.Load() && name == root && role == root {
		return api.ErrInvalidAuthMgmt
	}
	u := s.users[name]
	if u == nil {
		return api.ErrUserNotFound
	}
	if !u.has(role) {
		return api.ErrRoleNotGranted
	}
	s.putRoles(u, without(u.record.Roles, role))
	s.commit()
	return nil
}

// putRoles replaces a user's roles; the lock is held.
func (s *Store) putRoles(u *user, roles []string) {
	s.putUser(&authpb.User{Name: u.record.Name, Password: u.record.Password, Roles: roles, Options: u.record.Options})
}

func without(roles []string, role string) []string {
	return slices.DeleteFunc(slices.Clone(roles), func(r string) bool { return r == role })
}

// RoleAdd adds a role.
func (s *Store) RoleAdd(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "" {
		return api.ErrRoleEmpty
	}
	if s.roles[name] != nil {
		return api.ErrRoleAlreadyExist
	}
	s.putRole(&authpb.Role{Name: []byte(name)})
	s.commit()
	return nil
}

// RoleDelete deletes a role and takes it from its users, whom it returns sorted.
func (s *Store) RoleDelete(name string) (users []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.enabled.Load() && name == root {
		return nil, api.ErrInvalidAuthMgmt
	}
	if s.roles[name] == nil {
		return nil, api.ErrRoleNotFound
	}
	delete(s.roles, name)
	s.b.Delete(BucketRoles, []byte(name))
	for n, u := range s.users {
		if u.has(name) {
			users = append(users, n)
		}
	}
	slices.Sort(users)
	for _, n := range users {
		u := s.users[n]
		s.putRoles(u, without(u.record.Roles, name))
	}
	s.commit()
	return users, nil
}

// RoleGrantPermission gives a role a permission, or changes the type of one it has
// on the same interval, if it is the first of that key. Granting what is there already counts as a change.
func (s *Store) RoleGrantPermission(name string, p *authpb.Permission) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p == nil {
		return api.ErrPermissionNotGiven
	}
	if !validRange(p.Key, p.RangeEnd) {
		return api.ErrInvalidAuthMgmt
	}
	r := s.roles[name]
	if r == nil {
		return api.ErrRoleNotFound
	}
	p = &authpb.Permission{PermType: p.PermType, Key: slices.Clone(p.Key), RangeEnd: slices.Clone(p.RangeEnd)}
	permissions := slices.Clone(r.KeyPermission)
	i := sort.Search(len(permissions), func(i int) bool { return bytes.Compare(permissions[i].Key, p.Key) >= 0 })
	if i < len(permissions) && sameRange(permissions[i], p.Key, p.RangeEnd) {
		permissions[i] = p
	} else {
		permissions = append(permissions, p)
		sort.Sort(byKey(permissions))
	}
	s.putRole(&authpb.Role{Name: r.Name, KeyPermission: permissions})
	s.commit()
	return nil
}

// validRange refuses intervals that hold no key.
func validRange(key, end []byte) bool {
	if len(key) == 0 {
		return false
	}
	return len(end) == 0 || bytes.Equal(end, []byte{0}) || bytes.Compare(key, end) < 0
}

// byKey orders permissions as etcd does: by key only, with a sort that is not stable.
// Since only the first permission of a key is looked at when one is granted, a role
// can hold two for one interval, and which ones hangs on the order: so the order, and
// the sort, must be etcd's.
type byKey []*authpb.Permission

func (p byKey) Len() int           { return len(p) }
func (p byKey) Less(i, j int) bool { return bytes.Compare(p[i].Key, p[j].Key) < 0 }
func (p byKey) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }

func sameRange(p *authpb.Permission, key, end []byte) bool {
	return bytes.Equal(p.Key, key) && bytes.Equal(p.RangeEnd, end)
}

// RoleRevokePermission takes the permission on exactly [key, end) from a role.
func (s *Store) RoleRevokePermission(name string, key, end []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.roles[name]
	if r == nil {
		return api.ErrRoleNotFound
	}
	left := slices.DeleteFunc(slices.Clone(r.KeyPermission), func(p *authpb.Permission) bool {
		return sameRange(p, key, end)
	})
	if len(left) == len(r.KeyPermission) {
		return api.ErrPermissionNotGranted
	}
	s.putRole(&authpb.Role{Name: r.Name, KeyPermission: left})
	s.commit()
	return nil
}

// Enable turns authentication on. It is no change of the revision.
func (s *Store) Enable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.enabled.Load() {
		return nil
	}
	u := s.users[root]
	if u == nil {
		return api.ErrRootUserNotExist
	}
	if !u.has(root) {
		return api.ErrRootRoleNotExist
	}
	s.enabled.Store(true)
	s.b.Put(BucketAuth, keyEnabled, []byte{1})
	return nil
}

// Disable turns authentication off. Turning it off twice is no change.
func (s *Store) Disable() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.enabled.Load() {
		return
	}
	s.enabled.Store(false)
	s.b.Put(BucketAuth, keyEnabled, []byte{0})
	s.commit()
}
