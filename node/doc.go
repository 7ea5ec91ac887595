// Package node runs raft for one member: it turns proposals into entries, entries
// into bytes in the log and messages to the peers, and committed entries into
// calls of the state machine. It drives raft.RawNode with asynchronous storage
// writes. Why it is built this way stands in DESIGN.md.
//
// Three stages work side by side. [Core] is raft itself, [Disk] makes appends
// durable, [Feeder] feeds the Applier. Each is a plain struct without goroutine or clock:
// what goes in is a message, what comes out are messages. [Node] gives each stage
// a goroutine and a queue; a simulation calls the same three stages itself, one
// after the other, in the order that its seed says.
//
// What the caller owes it. New gets what the log held, a Transport and an Applier;
// Run works until its context ends and returns once all of its goroutines have.
// The log is closed by the caller, after Run. A peer's message is handed to Step
// only after the sender has been checked to be no removed member.
//
// Order of calls: New, Run on a goroutine of its own, then everything else from any
// goroutine. Before Run, calls only fill the queues.
//
// What a crash leaves behind. An entry that was acknowledged to a leader, a vote
// that was sent and a proposal that was answered are in the log: what depends on a
// write leaves only after the write is durable. The commit index is written
// without waiting for the disk and may be behind what was applied; it is raised
// at the next start.
package node
