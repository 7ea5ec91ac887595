package auth

import (
	"golang.org/x/crypto/bcrypt"

	"theseus/api"
)

// DefaultCost is the bcrypt cost that etcd takes when none is configured.
const DefaultCost = bcrypt.DefaultCost

// HashPassword returns the bcrypt hash of a password; cost 0 means DefaultCost. It
// takes tens of milliseconds. A password above 72 bytes is an error.
func HashPassword(password string, cost int) ([]byte, error) {
	if cost == 0 {
		cost = DefaultCost
	}
	return bcrypt.GenerateFromPassword([]byte(password), cost)
}

// CheckPassword tells whether the user may log in with the password
// (api.ErrAuthNotEnabled, ErrAuthFailed, ErrNoPasswordUser), and returns the
// revision that the check looked at: if it has changed when the token is proposed,
// check again. It takes tens of milliseconds and holds no lock meanwhile.
func (s *Store) CheckPassword(name, password string) (rev uint64, err error) {
	if !s.enabled.Load() {
		return 0, api.ErrAuthNotEnabled
	}
	s.mu.RLock()
	u, rev := s.users[name], s.revision
	s.mu.RUnlock()
	if u == nil {
		return 0, api.ErrAuthFailed
	}
	if u.record.GetOptions().GetNoPassword() {
		return 0, api.ErrNoPasswordUser
	}
	if bcrypt.CompareHashAndPassword(u.record.Password, []byte(password)) != nil {
		return 0, api.ErrAuthFailed
	}
	return rev, nil
}

// Login tells whether a token for the user may be made now, when the Authenticate
// entry is applied; the password was checked before.
func (s *Store) Login(name string) error {
	if !s.enabled.Load() {
		return api.ErrAuthNotEnabled
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	u := s.users[name]
	if u == nil || u.record.GetOptions().GetNoPassword() {
		return api.ErrAuthFailed
	}
	return nil
}
