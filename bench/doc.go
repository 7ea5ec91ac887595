// Package bench measures Theseus beside real etcd on one machine, in one run,
// in turn, and prints ratios: throughput, p50, p99, server CPU a request, peak
// memory. Absolute figures of a shared machine do not travel; ratios do.
//
// Two load generators: h2load (Debian's nghttp2-client), which is cheap enough
// not to hide the server, posts gRPC frames; the Go client that users have does
// everything else. All traffic is on loopback and bounded in time.
package bench
