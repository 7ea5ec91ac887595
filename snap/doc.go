// Package snap keeps raft snapshots: the .snap files of a member's snap folder,
// the .snap.db files received from a leader, and the stream in which a leader
// sends one. The bytes are described in docs/format/snap.md.
//
// What the caller owes it. A .snap is saved before the wal record that names
// it, and the database of the same index is durable before both are relied on.
// Clean is called once, after the locks of the data directory are held and
// before anything is received. Methods of Dir may be called by any goroutine.
//
// What a crash leaves behind. Files appear under their final name complete and
// synced, or not at all; besides them a tmp* file may remain, which Clean
// removes. Real etcd writes .snap files in place, so one of its may be cut
// short: LoadNewest renames it to .broken and takes the next older one.
package snap
