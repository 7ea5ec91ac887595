// Package member knows who is in the cluster, as voter or learner, what may change
// next, which cluster version is agreed and whether it is being lowered.
//
// The same facts are kept in two forms, because two generations of etcd trust one
// each. The v3 form is the buckets members, members_removed and cluster of the
// database: etcd 3.6 and newer start from it. The v2 form is a tree of paths
// (/0/members/<id>/raftAttributes, ...) that lies as JSON in every .snap file: etcd
// up to 3.5 starts from it, and its own v3 buckets may be wrong (members that were
// removed long ago, learners promoted since). So a directory of 3.5 or older is
// opened with Options.Rebuild: what is known begins as the JSON says, the conf
// changes behind it are applied again without touching the buckets, and Rewrite
// then makes the buckets agree.
//
// The JSON must be as of the snapshot's index and not newer: its readers apply the
// changes behind it again, and die when a member to be added is there already. So
// SnapshotJSON belongs to the goroutine that applies.
//
// Order of calls: Open; then Validate and Apply for each conf change, SetAttributes,
// SetVersion, SetDowngrade as they are committed, each inside a backend unit of the
// caller. A crash leaves the buckets as of the last unit in the file. Readers see
// whole states and never wait.
package member
