// Package api holds what every room says to a client in the same words: the one
// table of errors, and the fast codec for the messages that are hot.
//
// The wire types themselves are go.etcd.io/etcd/api/v3 (package etcdserverpb and
// its siblings). This package reads and writes the hot ones by hand, because
// reflective protobuf costs more than the work behind a put:
//
//   - [Unmarshal] agrees field for field with proto.Unmarshal, except that bytes
//     fields alias the input, which therefore must not change afterwards, and
//     that unknown fields are dropped.
//   - [Append] agrees byte for byte with deterministic proto.Marshal.
//   - [AppendKV], [AppendRangeResponse], [AppendEvent] and [AppendInternal] build
//     messages around parts that are already encoded, so that bytes are marshalled once.
//   - [Classify] and [LegacyRequest] tell apart and read what raft entries of any
//     etcd 3.x can hold.
//
// The package is pure: data in, data out. Malformed input is an error and never a panic.
package api
