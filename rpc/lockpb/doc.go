// Package lockpb is the wire form of etcd's lock service, v3lockpb.Lock. It is
// generated from v3lock.proto by generate.go; etcd's own copy belongs to its server,
// which is not imported.
package lockpb
