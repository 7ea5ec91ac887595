package wal

import (
	"encoding/binary"
	"hash/crc32"
)

// The record types. There are no others, and there is no room for any: every
// etcd refuses a log with an unknown one.
const (
	typeMetadata = 1
	typeEntry    = 2
	typeState    = 3
	typeCRC      = 4
	typeSnapshot = 5
)

const (
	lengthBytes = 8   // of the length field in front of each record
	sectorBytes = 512 // what a disk writes as a whole or not at all
	// maxHeaderBytes bounds what stands in a record before its data: the type, the
	// checksum (5 bytes at most) and the length of the data, each behind its tag.
	maxHeaderBytes = 2 + 6 + 1 + 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is one decoded record. Data aliases what it was parsed from.
type record struct {
	typ  int64
	crc  uint32
	data []byte
}

// lengthField makes the length field of a record of n bytes: the length, and in
// the top byte the number of padding bytes, marked by the highest bit, if any.
func lengthField(n int) uint64 {
	if pad := padding(n); pad != 0 {
		return uint64(n) | uint64(0x80|pad)<<56
	}
	return uint64(n)
}

// padding is the number of zero bytes that follow a record of n bytes.
func padding(n int) int { return (8 - n%8) % 8 }

// parseLength is the inverse of lengthField. It is not ok for a field that no
// writer makes.
func parseLength(word uint64) (n int, ok bool) {
	length := word & (1<<56 - 1)
	if length == 0 || length > 1<<48 {
		return 0, false
	}
	return int(length), lengthField(int(length)) == word
}

// frameBytes is the size on disk of a record of n bytes.
func frameBytes(n int) int { return lengthBytes + n + padding(n) }

// header is what stands in a record before its data.
type header struct {
	typ   int64
	crc   uint32
	bytes int // of the header itself
	data  int // bytes of data
}

// total is the size that the record must have according to its header.
func (h header) total() int { return h.bytes + h.data }

// cursor reads tagged varints, as strictly as writers make them.
type cursor struct {
	b     []byte
	pos   int
	short bool // the bytes ended too early
	bad   bool // there was something else
}

func (c *cursor) field(tag byte, limit uint64) uint64 {
	if c.short || c.bad {
		return 0
	}
	if c.pos >= len(c.b) {
		c.short = true
		return 0
	}
	if c.b[c.pos] != tag {
		c.bad = true
		return 0
	}
	v, n := binary.Uvarint(c.b[c.pos+1:])
	switch {
	case n == 0:
		c.short = true
		return 0
	case n < 0 || v > limit:
		c.bad = true
		return 0
	}
	c.pos += 1 + n
	return v
}

// parseHeader reads the start of a record: the fields type and checksum, then
// the tag and length of the data, which crc records do not have. short tells
// that b is too short to say, ok that it is a header.
func parseHeader(b []byte) (h header, short, ok bool) {
	c := cursor{b: b}
	h.typ = int64(c.field(0x08, 1<<62))
	h.crc = uint32(c.field(0x10, 1<<32-1))
	h.bytes = c.pos
	if h.typ != typeCRC {
		h.data = int(c.field(0x1a, 1<<48))
		h.bytes = c.pos
	}
	return h, c.short, !c.short && !c.bad
}

// parseRecord decodes a whole record and nothing but one.
func parseRecord(b []byte) (record, bool) {
	h, short, ok := parseHeader(b)
	if short && h.typ == typeMetadata && h.bytes == len(b) {
		return record{typ: h.typ, crc: h.crc}, true // a log made without metadata
	}
	if !ok || h.total() != len(b) {
		return record{}, false
	}
	return record{typ: h.typ, crc: h.crc, data: b[h.bytes:]}, true
}
