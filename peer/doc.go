// Package peer is the transport between members, wire-compatible with etcd 3.1 to
// 3.7 (interop.md, chapter 8): raft messages on long-lived HTTP streams or as posts,
// snapshots as posts, and the small requests that members make of each other.
//
// Each member dials two streams of every other, and reads from them: one for MsgApp
// in the codec of codec.go, one for all other messages. What is to be sent goes on
// the streams that the other side has dialed, as a post when there is none, or
// nowhere: raft is told that the peer is unreachable and sends again. Nothing that
// raft's goroutine calls ever waits for the network.
//
// What the caller owes it. Handler serves on the peer listeners, which [Listener]
// wraps. It is mounted only once the membership is known: until then the answer is
// 404, because a wrong 410 or 403 makes a real etcd stop itself for good. Members
// that join and leave are told to AddPeer and RemovePeer.
//
// Order of calls: New, AddPeer for every other member, then Send at any time, then
// Close. A Client needs no Transport: a joining member asks before it has an id.
//
// What a crash leaves behind: nothing but, in the snap folder, what the Handler's
// SaveSnapshotDB left.
package peer
