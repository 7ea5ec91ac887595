// Package machine is the replicated state machine: what a committed entry of the
// log does to keys, leases, users, members, alarms and versions. It is the only
// writer of the backend, and the only room that knows mvcc, lease, auth and member
// together.
//
// It is deterministic: every member that applies the same entries holds the same
// state, whoever proposed them, however they are batched, and wherever a restart
// falls. The index of the entry is written in the same backend unit as its effect,
// so after a crash the file is as of some entry exactly, and the log is applied
// from there.
//
// Order of calls: Open; then, on one goroutine, for each batch of committed entries
//
//	m.Begin()
//	for _, e := range entries {
//		r := m.Apply(e, mine(e))
//		// r.Fatal: stop. Else answer the caller, carry out r.Effects; a ConfChange
//		// goes to raft, and what raft answers to m.SetConfState.
//	}
//	m.End()
//
// beginning with the entry behind ReplayFrom. Reads need no entry: KV, Leases, Auth,
// Members, Alarms and ReadTxn may be called from any goroutine.
//
// What an entry may not decide is given as functions (the size of the file, whether
// an old member is present), and what is slow or random happens at the proposer.
// See DESIGN.md for why things are as they are.
package machine
