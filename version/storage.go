package version

import (
	"errors"
	"fmt"
)

// Errors of the storage version.
var (
	// ErrStorageUnknown means that the file was written by 3.4 or older, or by a 3.5
	// that has not applied an entry since: start is allowed, migration has to wait.
	ErrStorageUnknown = errors.New("cannot detect storage schema version: missing term information")
	// ErrWALNewer means that entries after the last snapshot need more than the target.
	ErrWALNewer = errors.New("cannot downgrade storage, WAL contains newer entries")
)

// DetectStorage returns the storage version of a backend from bucket meta: text is
// the value of storageVersion (empty if missing), term that of term (0 if missing).
func DetectStorage(text string, term uint64) (Version, error) {
	if text != "" {
		v, err := Parse(text)
		if err != nil {
			return Version{}, fmt.Errorf("read storage version: %w", err)
		}
		return v.Trunc(), nil
	}
	if term != 0 {
		return V3_5, nil
	}
	return Version{}, ErrStorageUnknown
}

// CheckStorage refuses a backend whose storage version is above what server can read.
func CheckStorage(storage, server Version) error {
	if server.Trunc().Less(storage.Trunc()) {
		return fmt.Errorf("version %q is not supported", storage.Trunc().String())
	}
	return nil
}

// Step is one migration of the storage by one minor, to be written in one backend
// transaction.
type Step struct {
	From, To Version
	// StorageVersion is the text to put under meta/storageVersion; empty means that
	// the key is deleted.
	StorageVersion string
}

// StorageSteps returns the steps that lead from one storage version to another,
// none if they are equal. walMin is the lowest version that can read the entries
// after the last snapshot; it matters on the way down only. Below 3.5 there are
// no steps: 3.4 removes what it does not know by itself.
func StorageSteps(from, to, walMin Version) ([]Step, error) {
	from, to = from.Trunc(), to.Trunc()
	for _, v := range []Version{from, to} {
		if v.Less(V3_5) || !V3_7.AtLeast(v) {
			return nil, fmt.Errorf("migrate storage from %s to %s: version %q is not supported", from, to, v.String())
		}
	}
	if to.Less(from) && to.Less(walMin.Trunc()) {
		return nil, ErrWALNewer
	}
	var steps []Step
	for v := from; v != to; {
		next := Version{v.Major, v.Minor + 1, 0}
		if to.Less(v) {
			next.Minor = v.Minor - 1
		}
		steps = append(steps, Step{From: v, To: next, StorageVersion: storageText(next)})
		v = next
	}
	return steps, nil
}

// storageText is what meta/storageVersion holds at v: 3.5 does not know the key.
func storageText(v Version) string {
	if v.Less(V3_6) {
		return ""
	}
	return v.String()
}

// MigrationTarget returns the storage version that a member should have, given the
// cluster version, and false if there is nothing to do now: the storage follows
// the cluster version only, never the server's own.
func MigrationTarget(storage, cluster Version) (Version, bool) {
	if storage.IsZero() || cluster.IsZero() || cluster.Trunc() == Min {
		return Version{}, false
	}
	return cluster.Trunc(), !storage.SameMinor(cluster)
}

// Layout says what of bucket meta is written with every consistent index.
type Layout struct{ Term, ConfState bool }

// LayoutOf returns the layout of a cluster version; 3.4 and below know neither. A
// cluster that has not decided yet is one that we are giving birth to.
func LayoutOf(cluster Version) Layout {
	at := cluster.IsZero() || cluster.AtLeast(V3_5)
	return Layout{Term: at, ConfState: at}
}
