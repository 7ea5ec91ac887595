package machine

import (
	"fmt"

	"theseus/version"
)

// StorageVersion is the version of the database's format (interop 9.6); ok is false
// for one of 3.4 or older, and for one that is new. Any goroutine may ask.
func (m *Machine) StorageVersion() (v version.Version, ok bool) {
	v = *m.storage.Load()
	return v, !v.IsZero()
}

// MigrateStorage takes the database's format to that of version to, one minor at a
// time, each in one unit. Going down, the caller has checked that the log behind the
// newest snapshot holds nothing newer. It changes no revision and no applied index.
func (m *Machine) MigrateStorage(to version.Version) error {
	from, ok := m.StorageVersion()
	if !ok {
		return version.ErrStorageUnknown
	}
	steps, err := version.StorageSteps(from, to, version.Min)
	if err != nil {
		return err
	}
	if m.replaying {
		return fmt.Errorf("migrate storage to %s: the log is still being replayed", to.MinorString())
	}
	for _, s := range steps {
		m.Begin()
		if s.StorageVersion == "" {
			m.b.Delete(BucketMeta, keyStorage)
		} else {
			m.b.Put(BucketMeta, keyStorage, []byte(s.StorageVersion))
		}
		m.End()
		m.storage.Store(&s.To)
	}
	return nil
}
