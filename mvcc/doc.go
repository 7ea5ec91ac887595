// Package mvcc keeps keys by revision: put, delete, range at any revision that is
// not compacted, compaction and the hash that members compare. It is etcd's
// multi-version store, stored in etcd's own records in the bucket "key".
//
// One goroutine writes, one transaction at a time, inside a unit of the backend;
// any goroutine reads without taking a lock and sees each transaction whole or
// not at all. The index of all keys is in memory, and with it, within a budget,
// the newest value of each key as encoded KeyValue bytes.
//
//	b.Begin()
//	t := s.Begin()
//	prev, rev := t.Put([]byte("greeting"), []byte("hello"), 0)
//	events := t.End() // readers see it now
//	b.End()
//	r, err := s.Range(mvcc.RangeOptions{Key: []byte("greeting")})
package mvcc
