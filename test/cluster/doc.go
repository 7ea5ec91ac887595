// Package cluster starts clusters of real processes for tests: Theseus, any
// real etcd that test/interop/peers has built, or a mix of both, on loopback
// addresses of their own, with data in the test's temporary folder.
//
// A test says what it wants in Options, calls New, and gets members that can
// be stopped, killed, paused, started again with another binary, and cut off
// from each other. Everything started here is ended by the test's cleanup, by
// process id. Nothing waits on a clock: Wait* polls the member itself and
// gives up when the test's deadline is near.
package cluster
