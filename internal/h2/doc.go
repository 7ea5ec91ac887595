// Package h2 is a gRPC server front of our own over the HTTP/2 framer of
// golang.org/x/net: one reader goroutine a connection, answers gathered and
// written when no more input waits, response headers encoded once.
//
// Three kinds of methods are served side by side on a connection; requests that are
// not gRPC go to Options.HTTP:
//
//   - HandleUnary: bytes in, bytes out. The handler runs on the connection's
//     reader and must not block; it may keep the Call and answer it later, from
//     any goroutine, with Reply. A pending call costs memory, no goroutine.
//   - the unary methods of a grpc.ServiceDesc (RegisterService): a goroutine a
//     call, request decoded by Options.Unmarshal.
//   - the streams of a grpc.ServiceDesc: a goroutine a call; the stream that a
//     handler gets is a *Stream, which also sends messages already encoded.
//
// Who answers many calls in one go stands Hold and Release around it, and each
// connection's answers leave in one write. Method keeps the counters of each method.
//
// What the caller owes: register everything before the first ServeConn; answer
// every Call exactly once; hand over memory given to Reply and SendRaw (it is
// referenced until it has been written). Shutdown says GOAWAY and waits for open
// calls; Close ends them. ServeConn returns when the connection's reader, writer
// and handlers have returned.
//
// Limits (a peer that goes beyond loses the stream or the connection, never the
// server): message size, header list size, open streams, bytes held for
// unfinished requests, bytes waiting to be sent, pings, resets, and frames
// without use. The constants in limits.go name each with its overflow rule.
//
// Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), the gRPC protocol over HTTP/2
// (doc/PROTOCOL-HTTP2.md of the gRPC project), and grpc-go for texts that clients
// see.
package h2
