package version

// Feature is something that kills or confuses members which do not know it, so
// that it may be used only when every member does.
type Feature int

// The features, by the entry or request that carries them.
const (
	IgnoreValueLease Feature = iota // PutRequest.ignore_value, ignore_lease
	NestedTxn                       // RequestOp.request_txn
	LeaseCompare                    // Compare target LEASE
	RangeCompare                    // Compare.range_end
	CorruptAlarm                    // AlarmType CORRUPT
	Learner                         // adding and promoting learners
	LeaseCheckpoint                 // InternalRaftRequest.lease_checkpoint
	NoPasswordUser                  // UserAddOptions.no_password
	HashedPassword                  // AuthUserAddRequest.hashedPassword and its change
	ClusterEntries                  // cluster_version_set, cluster_member_attr_set
	DowngradeEntry                  // downgrade_info_set
	AuthStatusEntry                 // InternalRaftRequest.auth_status
	ManyLearners                    // more than one learner
)

var since = [...]Version{
	IgnoreValueLease: V3_2,
	NestedTxn:        V3_3,
	LeaseCompare:     V3_3,
	RangeCompare:     V3_3,
	CorruptAlarm:     V3_3,
	Learner:          V3_4,
	LeaseCheckpoint:  V3_4,
	NoPasswordUser:   V3_4,
	HashedPassword:   V3_5,
	ClusterEntries:   V3_5,
	DowngradeEntry:   V3_5,
	AuthStatusEntry:  V3_5,
	ManyLearners:     V3_6,
}

// Since returns the first minor that knows f. (3.4 learned AuthStatusEntry in its
// patch 31; a patch is not what a gate should hang on.)
func (f Feature) Since() Version { return since[f] }

// Allowed tells whether f may be used when lowest is the lowest server version of
// all members; nothing is allowed when it is not known.
func (f Feature) Allowed(lowest Version) bool { return lowest.AtLeast(since[f]) }

// ProposeV2 tells whether member attributes and the cluster version are proposed
// as v2 requests: as long as a member at or below 3.4 may apply the entry. Not
// known counts as 3.5 and above, which is what a cluster born by us holds.
func ProposeV2(lowest Version) bool { return !lowest.IsZero() && lowest.Less(V3_5) }

// PersistCheckpoint tells whether lease checkpoints go to the backend at this
// cluster version. Every member decides alike, since the cluster version is replicated.
func PersistCheckpoint(cluster Version) bool { return cluster.AtLeast(V3_6) }
