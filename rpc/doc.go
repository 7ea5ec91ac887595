// Package rpc is the gRPC side of a member: every service of etcd, on the front of
// internal/h2. It validates requests, looks at who asks and whether this member may
// answer, calls server, and turns results into answers and errors in etcd's words.
//
// The hot unary methods (Range, Put, DeleteRange, Txn, LeaseGrant, LeaseRevoke) are
// bytes in, bytes out, and hold no goroutine while they wait: see hot.go. All
// others are plain methods of the generated service interfaces.
//
// Order of calls: New, then Serve for each connection a listener has accepted
// (any number at a time). To end, call EndStreams when the member stops serving
// (watches and other open streams get Unavailable), then Shutdown.
package rpc
