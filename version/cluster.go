package version

import "errors"

// Downgrade is the replicated request to lower the cluster version. The zero value
// means that none is asked for.
type Downgrade struct {
	Enabled bool
	Target  Version
}

// Facts are what a leader knows when it decides about the cluster version.
type Facts struct {
	// Cluster is the cluster version, zero if none has been decided.
	Cluster Version
	// Servers are the server versions of all members, the leader's own included;
	// zero for a member that did not answer.
	Servers   []Version
	Downgrade Downgrade
	// Etcd lists those of Servers that run another server than Theseus.
	Etcd []Version
	// Role is the minor whose rules the leader follows; zero means Current.
	Role Version
}

// Decide returns the cluster version that a leader proposes now, and false if it
// proposes nothing (interop D.7, 9.2).
func Decide(f Facts) (propose Version, ok bool) {
	lowest, known := Lowest(f.Servers)
	role := f.Role
	if role.IsZero() {
		role = Current
	}
	switch {
	case f.Cluster.IsZero() && known:
		return lowest, true
	case f.Cluster.IsZero():
		return Min, true
	case !known:
		return Version{}, false
	case role.AtLeast(V3_6) && f.Downgrade.Enabled:
		return decideDowngrade(f, lowest)
	case f.Cluster.Trunc().Less(lowest):
		return lowest, true
	case role.SameMinor(V3_5) && lowest.OneBelow(f.Cluster):
		// 3.5 follows the lowest member one minor down without being asked to.
		return lowest, true
	}
	return Version{}, false
}

// decideDowngrade goes one minor down at a time, however far the target is: each step
// is one that a member of etcd would take as well.
func decideDowngrade(f Facts, lowest Version) (Version, bool) {
	cv, t := f.Cluster.Trunc(), f.Downgrade.Target.Trunc()
	if t.Major != cv.Major || !t.Less(cv) {
		return Version{}, false
	}
	next := V(cv.Major, cv.Minor-1, 0)
	return next, !lowest.Less(next)
}

// DowngradeDone tells whether a leader proposes now to end the downgrade: every
// member runs the target's minor, or every one that is not Theseus does, of which
// there is one at least. That one holds the cluster version where it is from now on,
// which Theseus can serve at as long as it likes.
func DowngradeDone(f Facts) bool {
	servers := f.Servers
	if _, known := Lowest(servers); known && len(f.Etcd) > 0 && f.Downgrade.Target.SameMinor(f.Cluster) {
		servers = f.Etcd
	}
	if !f.Downgrade.Enabled || len(servers) == 0 {
		return false
	}
	for _, v := range servers {
		if !v.SameMinor(f.Downgrade.Target) {
			return false
		}
	}
	return true
}

// Errors of ValidateDowngrade and CheckServer.
var (
	ErrDowngradeFormat = errors.New("wrong downgrade target version format")
	ErrDowngradeTarget = errors.New("invalid downgrade target version")
	// ErrDowngradeFar is of a target that only a cluster of nothing but Theseus can reach.
	ErrDowngradeFar        = errors.New("invalid downgrade target version for a cluster with members of etcd")
	ErrDowngradeInProcess  = errors.New("cluster has a downgrade job in progress")
	ErrClusterVersionUnset = errors.New("cluster version not found during downgrade")
	// ErrServerTooLow carries the text that a member logs before it ends, and that
	// operators look for.
	ErrServerTooLow = errors.New("invalid downgrade; server version is lower than determined cluster version")
)

// FloorDowngrade is the lowest cluster version that a downgrade can lead to.
var FloorDowngrade = V3_4

// ValidateDowngrade checks a client's request to lower the cluster version to
// target and returns the parsed target, without a patch. The errors come in the
// order in which etcd checks. far allows more than etcd does, which is one minor down
// to 3.5 at the lowest: it needs a cluster in which no member is etcd, since those
// would neither take the steps nor, at 3.5, start again. There a downgrade whose
// target is reached can be carried on to a lower one, too.
func ValidateDowngrade(cluster Version, target string, current Downgrade, far bool) (Version, error) {
	if cluster.IsZero() {
		return Version{}, ErrClusterVersionUnset
	}
	t, err := Parse(target)
	if err != nil {
		return Version{}, ErrDowngradeFormat
	}
	t = t.Trunc()
	lower := t.Major == cluster.Major && t.Less(cluster.Trunc()) && t.AtLeast(FloorDowngrade)
	if !lower {
		return Version{}, ErrDowngradeTarget
	}
	if !far && (!t.OneBelow(cluster) || t.Less(V3_5)) {
		return Version{}, ErrDowngradeFar
	}
	if current.Enabled && (!far || !current.Target.SameMinor(cluster)) {
		return Version{}, ErrDowngradeInProcess
	}
	return t, nil
}

// CheckServer is run when a cluster version is applied and at start: a server
// below the cluster version must not go on. A zero cluster version forbids nothing.
func CheckServer(server, cluster Version) error {
	if !cluster.IsZero() && server.Trunc().Less(cluster.Trunc()) {
		return ErrServerTooLow
	}
	return nil
}
