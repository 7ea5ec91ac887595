package mvcc

import (
	"encoding/binary"
	"errors"
	"math/bits"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"theseus/api"
)

// KV is one key at one revision.
type KV struct {
	Raw                         []byte // encoded KeyValue; never modified
	Create, Mod, Version, Lease int64
}

// Key returns the key, aliasing Raw.
func (kv KV) Key() []byte {
	f, _ := parse(kv.Raw)
	return f.key
}

// Value returns the value, aliasing Raw.
func (kv KV) Value() []byte {
	f, _ := parse(kv.Raw)
	return f.value
}

// fields are those of an encoded KeyValue; key and value alias it.
type fields struct {
	key, value                  []byte
	create, mod, version, lease int64
}

func (f *fields) kv(raw []byte) KV {
	return KV{Raw: raw, Create: f.create, Mod: f.mod, Version: f.version, Lease: f.lease}
}

var errMalformed = errors.New("malformed KeyValue")

// parse reads an encoded KeyValue. It is api.DecodeKV without the message around
// it, since a restore reads every record. An empty one, which `etcdutl snapshot
// restore --bump-revision` writes, has an empty key.
func parse(b []byte) (f fields, err error) {
	for i := 0; i < len(b); {
		tag, n := uvarint(b[i:])
		i += n
		if n == 0 || i == len(b) {
			return f, errMalformed
		}
		switch tag & 7 {
		case 0:
			v, n := uvarint(b[i:])
			if n == 0 {
				return f, errMalformed
			}
			i += n
			f.setInt(tag>>3, int64(v))
		case 2:
			size, n := uvarint(b[i:])
			i += n
			if n == 0 || size > uint64(len(b)-i) {
				return f, errMalformed
			}
			f.setBytes(tag>>3, b[i:i+int(size):i+int(size)])
			i += int(size)
		default:
			return f, errMalformed
		}
	}
	return f, nil
}

func (f *fields) setInt(field uint64, v int64) {
	switch field {
	case 2:
		f.create = v
	case 3:
		f.mod = v
	case 4:
		f.version = v
	case 6:
		f.lease = v
	}
}

func (f *fields) setBytes(field uint64, v []byte) {
	switch field {
	case 1:
		f.key = v
	case 5:
		f.value = v
	}
}

// uvarint is binary.Uvarint with a short way for one byte and 0 for any error.
func uvarint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	v, n := binary.Uvarint(b)
	return v, max(n, 0)
}

// uvarintLen returns the length of v as a varint.
func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// bytesLen and intLen return the lengths of a field in a KeyValue.
func bytesLen(n int) int {
	if n == 0 {
		return 0
	}
	return 1 + uvarintLen(uint64(n)) + n
}

func intLen(v int64) int {
	if v == 0 {
		return 0
	}
	return 1 + uvarintLen(uint64(v))
}

func (f *fields) size() int {
	return bytesLen(len(f.key)) + intLen(f.create) + intLen(f.mod) + intLen(f.version) + bytesLen(len(f.value)) + intLen(f.lease)
}

// append appends the encoding, exactly etcd's.
func (f *fields) append(dst []byte) []byte {
	return api.AppendKV(dst, &mvccpb.KeyValue{
		Key: f.key, CreateRevision: f.create, ModRevision: f.mod, Version: f.version, Value: f.value, Lease: f.lease,
	})
}

// keyIn returns the key within an encoded KeyValue that begins with a key of n bytes.
func keyIn(raw []byte, n int) []byte {
	at := bytesLen(n) - n
	return raw[at : at+n : at+n]
}
