// Package backend keeps named buckets of sorted keys in one bbolt file, the file
// `db` of an etcd data directory, byte-compatible both ways.
//
// One goroutine writes, in units: everything between [Backend.Begin] and
// [Backend.End] reaches the file in one bbolt transaction or not at all. Writes
// go to a layer in memory and a background flush moves them to the file, so that
// a write never waits for the disk (it does wait in Begin when the flush is
// further behind than Options.PendingLimitBytes). What makes a write durable is
// the raft log; after a crash the file holds a prefix of the units, and the
// applied index, written in the same unit, says which one.
//
// Any goroutine reads: [Backend.Get] and [Backend.Scan] merge the layers with the
// file. A reader that runs beside the writer also sees writes of the unit under
// way; rooms that need more gate by revision (mvcc) or keep their own state.
// [Backend.Snapshot] and [Backend.Hash] always show whole units.
//
//	b, err := backend.Open(backend.Options{Path: filepath.Join(dir, "db")})
//	b.Begin()
//	b.Put("meta", []byte("consistent_index"), index)
//	b.End()
//	v := b.Get("meta", []byte("consistent_index"))
//	err = b.Close() // flushes
package backend
