// Package ctl is the online command line: get, put, watch, members, leases,
// users and the rest, on the public client go.etcd.io/etcd/client/v3.
//
// It has two names. As etcdctl it is etcdctl 3.7: the same flags, environment,
// output, help, error texts and exit codes, so that scripts cannot tell. As
// `theseus ctl` the commands and their results are the same, but help has
// descriptions and examples, an error is followed by one line that says what to
// try next, the client's own JSON log stays silent without --debug, and the exit
// code is 1 for what failed and 2 for what was asked wrongly.
//
// Where etcdctl crashes, hangs or damages data, both names do the sensible thing;
// the list is in testdata/README.md.
//
// There is one file a command. [Main] runs one command line and returns its exit
// code; it keeps no state between calls.
package ctl
