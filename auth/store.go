package auth

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/backend"
)

// The buckets of authentication (interop 4.3).
const (
	BucketAuth  backend.Bucket = "auth"
	BucketUsers backend.Bucket = "authUsers"
	BucketRoles backend.Bucket = "authRoles"
)

var (
	keyEnabled  = []byte("authEnabled")
	keyRevision = []byte("authRevision")
)

// root is the name of the user without whom authentication cannot be turned on, and
// of the role that may do everything. The role needs no record.
const root = "root"

// Store is the replicated state of authentication.
type Store struct {
	b *backend.Backend
	// enabled stands outside the lock: every request asks, and most clusters answer no.
	enabled atomic.Bool

	mu       sync.RWMutex // guards what follows; the records themselves never change
	revision uint64
	users    map[string]*user
	roles    map[string]*authpb.Role
}

// user is one record and what follows from it. granted is made when it is first
// asked for, and forgotten when a role of the user changes.
type user struct {
	record  *authpb.User
	granted atomic.Pointer[grants]
}

func (u *user) has(role string) bool { return slices.Contains(u.record.Roles, role) }

// Open reads the buckets. It writes nothing.
func Open(b *backend.Backend) (*Store, error) {
	s := &Store{b: b, revision: 1, users: map[string]*user{}, roles: map[string]*authpb.Role{}}
	if v := b.Get(BucketAuth, keyRevision); len(v) == 8 {
		s.revision = binary.BigEndian.Uint64(v)
	} else if v != nil {
		return nil, fmt.Errorf("decode %s/%s: %d bytes, want 8", BucketAuth, keyRevision, len(v))
	}
	v := b.Get(BucketAuth, keyEnabled)
	s.enabled.Store(len(v) == 1 && v[0] == 1)
	err := load(b, BucketUsers, func() *authpb.User { return new(authpb.User) }, func(r *authpb.User) {
		s.users[string(r.Name)] = &user{record: r}
	})
	if err != nil {
		return nil, err
	}
	err = load(b, BucketRoles, func() *authpb.Role { return new(authpb.Role) }, func(r *authpb.Role) {
		s.roles[string(r.Name)] = r
	})
	return s, err
}

// load decodes every record of a bucket.
func load[R proto.Message](b *backend.Backend, bucket backend.Bucket, empty func() R, keep func(R)) error {
	var bad error
	err := b.Scan(bucket, nil, nil, func(k, v []byte) bool {
		r := empty()
		if bad = proto.Unmarshal(v, r); bad != nil {
			bad = fmt.Errorf("decode %s/%q: %w", bucket, k, bad)
			return false
		}
		keep(r)
		return true
	})
	if bad != nil {
		return bad
	}
	return err
}

// Init writes the first revision into a new database. Call it inside a unit.
func (s *Store) Init() {
	if s.b.Get(BucketAuth, keyRevision) == nil {
		s.putRevision()
	}
}

// Enabled reports whether authentication is on. It is cheap.
func (s *Store) Enabled() bool { return s.enabled.Load() }

// Revision counts the changes, from 1.
func (s *Store) Revision() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision
}

// Check tells whether the user, whose header carried rev, may do perm (READ or
// WRITE) on [key, end); nil while authentication is off. An empty end means the one
// key, a single zero byte everything from key on.
func (s *Store) Check(name string, rev uint64, key, end []byte, perm authpb.Permission_Type) error {
	if !s.enabled.Load() {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if rev == 0 {
		return api.ErrUserEmpty
	}
	if rev < s.revision {
		return api.ErrAuthOldRevision
	}
	u := s.users[name]
	if u == nil {
		return api.ErrPermissionDenied
	}
	if u.has(root) || s.grantsOf(u).cover(key, end, perm) {
		return nil
	}
	return api.ErrPermissionDenied
}

// grantsOf must be called with the lock held, for reading at least.
func (s *Store) grantsOf(u *user) *grants {
	g := u.granted.Load()
	if g == nil {
		g = &grants{}
		for _, role := range u.record.Roles {
			if r := s.roles[role]; r != nil {
				g.add(r.KeyPermission)
			}
		}
		g.merge()
		u.granted.Store(g) // two readers may make it at once; they make the same
	}
	return g
}

// CheckAdmin tells whether the user has role root; nil while authentication is off.
func (s *Store) CheckAdmin(name string) error {
	if !s.enabled.Load() {
		return nil
	}
	if name == "" {
		return api.ErrUserEmpty
	}
	if !s.HasRole(name, root) {
		return api.ErrPermissionDenied
	}
	return nil
}

// HasRole reports whether the user has the role.
func (s *Store) HasRole(name, role string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	u := s.users[name]
	return u != nil && u.has(role)
}

// Exists reports whether there is such a user.
func (s *Store) Exists(name string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.users[name] != nil
}

// UserGet returns a user's roles, sorted.
func (s *Store) UserGet(name string) (roles []string, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	u := s.users[name]
	if u == nil {
		return nil, api.ErrUserNotFound
	}
	return slices.Clone(u.record.Roles), nil
}

// Users returns the names of all users, sorted.
func (s *Store) Users() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.users))
}

// RoleGet returns a role's permissions. Those of root are not what was granted to
// it, but all there is.
func (s *Store) RoleGet(name string) ([]*authpb.Permission, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.roles[name]
	if r == nil {
		return nil, api.ErrRoleNotFound
	}
	if name == root {
		return []*authpb.Permission{{PermType: authpb.READWRITE, RangeEnd: []byte{0}}}, nil
	}
	return slices.Clone(r.KeyPermission), nil
}

// Roles returns the names of all roles, sorted.
func (s *Store) Roles() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.roles))
}

// putUser and putRole write through; the record must not change afterwards. The
// lock is held.
func (s *Store) putUser(r *authpb.User) {
	s.users[string(r.Name)] = &user{record: r}
	s.b.Put(BucketUsers, slices.Clone(r.Name), api.Append(nil, r))
}

func (s *Store) putRole(r *authpb.Role) {
	s.roles[string(r.Name)] = r
	s.b.Put(BucketRoles, slices.Clone(r.Name), api.Append(nil, r))
	s.forget(string(r.Name))
}

// forget drops what was derived for the users who have the role.
func (s *Store) forget(role string) {
	for _, u := range s.users {
		if u.has(role) {
			u.granted.Store(nil)
		}
	}
}

// commit counts a change.
func (s *Store) commit() {
	s.revision++
	s.putRevision()
}

func (s *Store) putRevision() {
	s.b.Put(BucketAuth, keyRevision, binary.BigEndian.AppendUint64(nil, s.revision))
}
