// Package electionpb is the wire form of etcd's election service,
// v3electionpb.Election. It is generated from v3election.proto by
// rpc/lockpb/generate.go; etcd's own copy belongs to its server, which is not
// imported.
package electionpb
