// Package wal is the raft log on disk, byte-compatible both ways with etcd 3.1
// to 3.7: segments of checksummed records in one directory. The bytes are
// described in docs/format/wal.md.
//
// What the caller owes it. One goroutine calls Save and SaveSnapshot, in the
// order raft asked for; Prepare, ReleaseTo and Purge may run beside them on
// other goroutines. Messages that depend on an entry or a vote being durable
// leave only after Save has returned nil. Once a write or a sync has failed,
// what is on disk is unknown: every later call returns the same error, and the
// member must stop.
//
// Order of calls: Create for a new member, else Snapshots (which snapshots the
// log knows of), then Open from one of them, then Save, SaveSnapshot, ReleaseTo
// and Purge as the log grows, then Close. Read is for tools: it takes no lock
// and changes nothing.
//
// What a crash leaves behind. Everything that a Save with entries, a new term
// or a new vote returned nil for is there. Of the records written after the
// last sync any 512-byte sector may be missing; Open finds the first one that
// is not whole, copies the segment to <segment>.broken and cuts it off there.
// Open does so only for what can be a write cut short. Every other damage is a
// *DamageError, also where real etcd would cut and lose acknowledged entries:
// a length field that disagrees with the record it belongs to, or a hole behind
// which there are records that were written only after the hole had been synced.
package wal
