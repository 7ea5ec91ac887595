package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"

	"go.etcd.io/raft/v3/raftpb"
)

// encoder appends frames to one buffer, which is written to the segment in one
// piece and then used again: in the steady state nothing is allocated.
type encoder struct {
	buf []byte
	crc uint32 // running checksum over the data of all records so far
}

// keepBytes is the largest buffer that is kept for the next batch.
const keepBytes = 16 << 20

// reset forgets what was encoded, not the checksum.
func (e *encoder) reset() {
	if cap(e.buf) > keepBytes {
		e.buf = nil
	}
	e.buf = e.buf[:0]
}

// uvarintBytes is the size of v as a varint.
func uvarintBytes(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// begin appends the start of a frame whose record has size bytes of data, with
// the length of the checksum assumed to be that of most; see end.
func (e *encoder) begin(typ byte, size int) (start, data int) {
	start = len(e.buf)
	e.buf = append(e.buf, 0, 0, 0, 0, 0, 0, 0, 0, 0x08, typ, 0x10, 0, 0, 0, 0, 0, 0x1a)
	e.buf = binary.AppendUvarint(e.buf, uint64(size))
	return start, len(e.buf)
}

// end closes the frame that begin started, once its data stands at e.buf[data:]:
// only then is the checksum known. A checksum below 2^28 is a shorter varint, so
// one record in sixteen is moved up.
func (e *encoder) end(start, data int) {
	const crcAt, crcBytes = 11, 5
	e.crc = crc32.Update(e.crc, castagnoli, e.buf[data:])
	n := binary.PutUvarint(e.buf[start+crcAt:], uint64(e.crc))
	if n < crcBytes {
		copy(e.buf[start+crcAt+n:], e.buf[start+crcAt+crcBytes:])
		e.buf = e.buf[:len(e.buf)-(crcBytes-n)]
	}
	e.finish(start)
}

// finish writes the length field and the padding.
func (e *encoder) finish(start int) {
	n := len(e.buf) - start - lengthBytes
	binary.LittleEndian.PutUint64(e.buf[start:], lengthField(n))
	for range padding(n) {
		e.buf = append(e.buf, 0)
	}
}

// checksum appends a crc record, which carries the checksum so far and does not
// take part in it.
func (e *encoder) checksum() {
	start := len(e.buf)
	e.buf = append(e.buf, 0, 0, 0, 0, 0, 0, 0, 0, 0x08, typeCRC, 0x10)
	e.buf = binary.AppendUvarint(e.buf, uint64(e.crc))
	e.finish(start)
}

// raw appends a record with this data.
func (e *encoder) raw(typ byte, b []byte) {
	start, data := e.begin(typ, len(b))
	e.buf = append(e.buf, b...)
	e.end(start, data)
}

// metadata appends a metadata record; without metadata it has no data field.
func (e *encoder) metadata(b []byte) {
	if len(b) > 0 {
		e.raw(typeMetadata, b)
		return
	}
	start := len(e.buf)
	e.buf = append(e.buf, 0, 0, 0, 0, 0, 0, 0, 0, 0x08, typeMetadata, 0x10)
	e.buf = binary.AppendUvarint(e.buf, uint64(e.crc))
	e.finish(start)
}

// entry appends an entry in the form of etcd up to 3.6, which writes the fields
// type, term and index even when they are zero, and data unless it is nil.
func (e *encoder) entry(en *raftpb.Entry) {
	size := 3 + uvarintBytes(uint64(en.Type)) + uvarintBytes(en.Term) + uvarintBytes(en.Index)
	if en.Data != nil {
		size += 1 + uvarintBytes(uint64(len(en.Data))) + len(en.Data)
	}
	start, data := e.begin(typeEntry, size)
	b := append(e.buf, 0x08)
	b = binary.AppendUvarint(b, uint64(en.Type))
	b = append(b, 0x10)
	b = binary.AppendUvarint(b, en.Term)
	b = append(b, 0x18)
	b = binary.AppendUvarint(b, en.Index)
	if en.Data != nil {
		b = append(b, 0x22)
		b = binary.AppendUvarint(b, uint64(len(en.Data)))
		b = append(b, en.Data...)
	}
	e.buf = b
	e.end(start, data)
}

// state appends a hard state, all three fields always.
func (e *encoder) state(st raftpb.HardState) {
	start, data := e.begin(typeState, 3+uvarintBytes(st.Term)+uvarintBytes(st.Vote)+uvarintBytes(st.Commit))
	b := append(e.buf, 0x08)
	b = binary.AppendUvarint(b, st.Term)
	b = append(b, 0x10)
	b = binary.AppendUvarint(b, st.Vote)
	b = append(b, 0x18)
	e.buf = binary.AppendUvarint(b, st.Commit)
	e.end(start, data)
}

// snapshot appends a snapshot record, index and term always.
func (e *encoder) snapshot(s Snapshot) error {
	b := binary.AppendUvarint([]byte{0x08}, s.Index)
	b = binary.AppendUvarint(append(b, 0x10), s.Term)
	if s.ConfState != nil {
		cs, err := s.ConfState.Marshal()
		if err != nil {
			return fmt.Errorf("encode conf state: %w", err)
		}
		b = binary.AppendUvarint(append(b, 0x1a), uint64(len(cs)))
		b = append(b, cs...)
	}
	e.raw(typeSnapshot, b)
	return nil
}

// Metadata encodes the metadata record of a member.
func Metadata(nodeID, clusterID uint64) []byte {
	b := binary.AppendUvarint([]byte{0x08}, nodeID)
	return binary.AppendUvarint(append(b, 0x10), clusterID)
}
