// Package server assembles one member: it decides how the member starts
// (bootstrap, join or restart), opens its storage, runs raft, applies what is
// committed and answers what clients ask.
//
// Order of calls: a Gate asks the other members whether this one may start at all
// (see there) and calls New, or the caller does so by itself; New opens and checks
// everything and changes nothing on disk when it refuses; the caller then serves
// PeerHandler on the peer addresses and calls Start; requests are answered from then on. Stop hands leadership over
// first, while requests are still served, then refuses new work, ends what is
// open (Done is closed) and releases the directory. A crash at any moment leaves
// a directory that New opens again.
//
// Two forms of a request exist. The form with a context waits and returns, and
// fits streams and rare calls. The Start form (StartPut, StartRange, ...) returns
// at once and tells a Waiter later: no goroutine is held while the request is in
// flight, which is what lets one connection reader keep thousands of them open.
//
// Answers carry a complete header only from the context form; a Waiter fills one
// with FillHeader, since the ids in it are the same in every answer.
//
// Who asks is told by Credentials: in the context (WithCredentials) or as an
// argument. They are looked at only while authentication is on.
package server
