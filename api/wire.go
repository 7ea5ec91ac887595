package api

import (
	"errors"
	"math/bits"

	"google.golang.org/protobuf/encoding/protowire"
)

// errMalformed is the one error of the hand-written decoders: which byte is wrong
// helps nobody, since the message came from a machine.
var errMalformed = errors.New("malformed protobuf message")

// maxDepth is how deep messages may nest, as in proto.Unmarshal. A request of a
// client gets one level less, so that a raft entry around it can still be read.
const maxDepth = protowire.DefaultRecursionLimit

// Wire types, and the tag of a field: its number and wire type as one number, as
// it stands on the wire.
const (
	wireVarint = 0
	wireBytes  = 2
)

// decoder is what the decoding of one message and of all within it shares.
type decoder struct {
	depth int  // levels that may still be entered
	odd   bool // something was seen that plain bytes do not hold
}

// enter begins the reading of a nested message.
func (d *decoder) enter(b []byte) (reader, bool) {
	d.depth--
	return reader{rest: b}, d.depth >= 0
}

// leave ends it: r has read all it can.
func (d *decoder) leave(r *reader) error {
	d.depth++
	if r.bad {
		return errMalformed
	}
	if r.odd || r.suspect {
		d.odd = true
	}
	return nil
}

// reader reads the fields of one message. next must be called until it returns
// false; then bad tells a broken message from the end of a sound one.
type reader struct {
	rest []byte

	tag uint64 // of the field at hand: number<<3 | wire type
	num uint64 // the payload of a varint
	buf []byte // the payload of a length-delimited field, aliasing the message

	last    uint64 // number of the field at hand
	before  uint64 // number of the field before it
	suspect bool   // the field at hand does not come after the one before
	odd     bool
	bad     bool
}

// next reads one field whole. Fixed-size fields and groups, which no message of
// ours has, are checked and passed over like every field of the wrong type.
func (r *reader) next() bool {
	if len(r.rest) == 0 {
		return false
	}
	if r.suspect {
		r.odd = true // and nobody has said that it may be so
	}
	tag, n := varint(r.rest)
	field := tag >> 3
	if n == 0 || field < uint64(protowire.MinValidNumber) || field > uint64(protowire.MaxValidNumber) {
		return r.fail()
	}
	r.rest = r.rest[n:]
	r.tag, r.suspect = tag, field <= r.last
	r.before, r.last = r.last, field
	switch tag & 7 {
	case wireVarint:
		if r.num, n = varint(r.rest); n == 0 {
			return r.fail()
		}
		r.rest = r.rest[n:]
	case wireBytes:
		size, n := varint(r.rest)
		if n == 0 || size > uint64(len(r.rest)-n) {
			return r.fail()
		}
		end := n + int(size)
		r.buf = r.rest[n:end:end]
		r.rest = r.rest[end:]
	default:
		n := protowire.ConsumeFieldValue(protowire.Number(field), protowire.Type(tag&7), r.rest)
		if n < 0 {
			return r.fail()
		}
		r.rest = r.rest[n:]
	}
	return true
}

// mayFollow says that the field at hand may come right after the given one,
// although its number is no higher.
func (r *reader) mayFollow(field uint64) {
	if r.before == field {
		r.suspect = false
	}
}

// repeated says that the field at hand may come more than once in a row.
func (r *reader) repeated() { r.mayFollow(r.last) }

// unknown says that the message has no such field of this wire type.
func (r *reader) unknown() { r.odd = true }

func (r *reader) fail() bool {
	r.bad, r.rest = true, nil
	return false
}

// bytes returns the payload as proto3 keeps it: nil when it is empty.
func (r *reader) bytes() []byte {
	if len(r.buf) == 0 {
		return nil
	}
	return r.buf
}

func (r *reader) bool() bool { return r.num != 0 }

// varint reads one varint; n is 0 if it is cut off or exceeds 64 bits.
func varint(b []byte) (v uint64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	if len(b) > 1 && b[1] < 0x80 {
		return uint64(b[0]&0x7f) | uint64(b[1])<<7, 2
	}
	v, n = protowire.ConsumeVarint(b)
	if n < 0 {
		return 0, 0
	}
	return v, n
}

// The writers below leave out zero values, as proto3 does.

func sizeVarint(v uint64) int { return int(9*uint32(bits.Len64(v))+64) / 64 }

func sizeUint(tagSize int, v uint64) int {
	if v == 0 {
		return 0
	}
	return tagSize + sizeVarint(v)
}

func sizeBool(tagSize int, v bool) int {
	if !v {
		return 0
	}
	return tagSize + 1
}

func sizeBytes(tagSize, n int) int {
	if n == 0 {
		return 0
	}
	return sizeNested(tagSize, n)
}

// sizeNested is the size of a length-delimited field that is there even when it is empty.
func sizeNested(tagSize, n int) int { return tagSize + sizeVarint(uint64(n)) + n }

func appendVarint(dst []byte, v uint64) []byte {
	if v < 0x80 {
		return append(dst, byte(v))
	}
	return protowire.AppendVarint(dst, v)
}

// appendUint appends a varint field whose number is below 16.
func appendUint(dst []byte, field byte, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return appendVarint(append(dst, field<<3|wireVarint), v)
}

func appendBool(dst []byte, field byte, v bool) []byte {
	if !v {
		return dst
	}
	return append(dst, field<<3|wireVarint, 1)
}

func appendBytes[B []byte | string](dst []byte, field byte, v B) []byte {
	if len(v) == 0 {
		return dst
	}
	return append(appendLen(dst, field, len(v)), v...)
}

// appendLen appends tag and length of a length-delimited field whose number is below 16.
func appendLen(dst []byte, field byte, n int) []byte {
	return appendVarint(append(dst, field<<3|wireBytes), uint64(n))
}
