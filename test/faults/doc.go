// Package faults runs clients against a cluster of real processes while a
// seeded sequence of faults happens to it (kill -9, SIGSTOP, cut links, snapshots
// forced by lag), and hands what the clients saw to test/history.
//
// The same body runs against Theseus and, with THESEUS_FAULTS_BINARY=3.7, against
// a real etcd, which shows that it judges the store and not the test.
package faults
