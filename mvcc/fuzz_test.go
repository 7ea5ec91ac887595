package mvcc

import (
	"bytes"
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"theseus/backend"
)

// FuzzParse: what parse reads, protobuf reads the same, and what was encoded as
// etcd does comes out as the same bytes.
func FuzzParse(f *testing.F) {
	f.Add([]byte("\x0a\x01a\x10\x02\x18\x03\x20\x02\x2a\x012"))
	f.Add([]byte(""))
	f.Add([]byte("\x0a\x01k\x10\x05\x18\x05\x20\x01\x30\x87\xa8\xc9\xcd\xcf\xbf\xa8\xc6\x7f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parse(b)
		want := &mvccpb.KeyValue{}
		if e := proto.Unmarshal(b, want); e != nil || err != nil {
			return // either may refuse what no etcd writes: groups, wrong wire types, huge tags
		}
		if len(want.ProtoReflect().GetUnknown()) == 0 {
			if !bytes.Equal(got.key, want.Key) || !bytes.Equal(got.value, want.Value) || got.create != want.CreateRevision ||
				got.mod != want.ModRevision || got.version != want.Version || got.lease != want.Lease {
				t.Fatalf("%+v, want %v", got, want)
			}
		}
		again := got.append(nil)
		if len(again) != got.size() {
			t.Fatalf("%d bytes, said %d", len(again), got.size())
		}
		if plain, _ := (proto.MarshalOptions{Deterministic: true}).Marshal(&mvccpb.KeyValue{
			Key: got.key, CreateRevision: got.create, ModRevision: got.mod, Version: got.version, Value: got.value, Lease: got.lease,
		}); !bytes.Equal(plain, again) {
			t.Fatalf("%x, want %x", again, plain)
		}
	})
}

// FuzzRestore: any records make a store that works, or an error.
func FuzzRestore(f *testing.F) {
	f.Add(int64(2), int64(0), false, []byte("\x0a\x01a\x10\x02\x18\x02\x20\x01"), int64(3), int64(0), true, []byte("\x0a\x01a"), int64(3))
	f.Add(int64(2), int64(0), true, []byte("\x0a\x01a"), int64(2), int64(1), false, []byte(""), int64(2))
	f.Add(int64(-1), int64(5), true, []byte("\x0a\x01a"), int64(1<<62), int64(-1), false, []byte("x"), int64(1<<40))
	b, err := backend.Open(backend.Options{Path: f.TempDir() + "/db", NoSync: true, MapBytes: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = b.Close() })
	f.Fuzz(func(t *testing.T, m1, s1 int64, t1 bool, v1 []byte, m2, s2 int64, t2 bool, v2 []byte, scheduled int64) {
		var old [][]byte
		if err := b.Scan(keyBucket, nil, nil, func(k, _ []byte) bool { old = append(old, bytes.Clone(k)); return true }); err != nil {
			t.Fatal(err)
		}
		b.Begin()
		for _, k := range old {
			b.Delete(keyBucket, k)
		}
		b.Delete(metaBucket, finishedKey)
		b.Put(keyBucket, newStamp(Rev{m1, s1}, t1).appendKey(nil), v1)
		b.Put(keyBucket, newStamp(Rev{m2, s2}, t2).appendKey(nil), v2)
		b.Put(metaBucket, scheduledKey, mainKey(scheduled))
		b.End()
		s, err := Open(b, Options{})
		if err != nil {
			return
		}
		if err := s.tree.check(); err != nil {
			t.Fatal(err)
		}
		for more := true; more; {
			b.Begin()
			more = s.CompactStep(1)
			b.End()
		}
		if _, err := s.HashKV(0); err != nil {
			t.Fatal(err)
		}
		r, err := s.Range(RangeOptions{Key: []byte{0}, End: []byte{0}})
		if err != nil || int64(len(r.KVs)) != r.Count {
			t.Fatal(r, err)
		}
		_, compacted := s.Revision()
		if _, err := s.Events(compacted, r.Rev, 0, func([]Event) error { return nil }); err != nil && !errors.Is(err, errMalformed) {
			t.Fatal(err)
		}
		if err := s.tree.check(); err != nil {
			t.Fatal(err)
		}
	})
}
