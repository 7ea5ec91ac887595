package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"
)

func update(crc uint32, data []byte) uint32 { return crc32.Update(crc, castagnoli, data) }

// A record that cannot be read is either a write that a crash cut short, which
// is cut off, or damage, which is refused. Cutting off the wrong one loses what
// was acknowledged, so this is where the log is strict.
//
// What a crash can do: of everything written after the last sync, each sector is
// there or is as it was before, and that is zero in a segment prepared ahead; or
// the file ends early. It follows that the first sector of a record that cannot
// be read is as it was written, and its length field with it.
//
// And how much a crash can undo: entries, a new term or vote, and snapshots are
// synced before the next Save writes. So when a hole is followed by a Save that
// must have been synced, and that by yet another record, the hole was synced
// too, and something else than a crash has made it.

// suspect is the place of the first record that could not be read.
type suspect struct {
	off   int64  // of its length field in the file
	rest  []byte // everything from there to the end of the file
	crc   uint32 // running checksum before it
	last  bool   // it is in the last segment, behind that segment's first records
	state raftpb.HardState
}

// verdict says what is wrong there and whether it can be a write cut short.
type verdict struct {
	torn  bool
	cause error
	what  string
}

// judge decides about the place. It is pure, for it has to be tested well.
func judge(s suspect) verdict {
	v, behind, first := s.classify()
	if !v.torn {
		return v
	}
	if !s.last {
		v.torn = false
		return v
	}
	if at := s.syncedBehind(behind, first); at >= 0 {
		return verdict{cause: ErrHole, what: fmt.Sprintf(
			"%s, and yet records follow (byte %d) that were written only after this one had been synced", v.what, s.off+int64(at))}
	}
	return v
}

// classify judges the record by itself. behind is where the next one would
// start, counted from the suspect; first is its header if that can be trusted.
func (s suspect) classify() (v verdict, behind int, first *header) {
	if len(s.rest) < lengthBytes {
		v.torn, v.cause, v.what = true, ErrIncomplete, "the file ends within a length field"
		return v, len(s.rest), nil
	}
	word := binary.LittleEndian.Uint64(s.rest)
	if word == 0 {
		return s.classifyZero(v)
	}
	n, ok := parseLength(word)
	if !ok {
		v.cause, v.what = ErrLength, fmt.Sprintf("length field %016x is none that a server writes", word)
		return v, 0, nil
	}
	body := s.rest[lengthBytes:min(len(s.rest), lengthBytes+min(n, len(s.rest)))]
	h, known, bad := s.trustedHeader(body)
	switch {
	case bad:
		v.cause, v.what = ErrMalformed, "this is not the start of a record"
		return v, 0, nil
	case known && (h.typ < typeMetadata || h.typ > typeSnapshot):
		v.cause, v.what = ErrUnknownRecord, fmt.Sprintf("record type %d does not exist", h.typ)
		return v, 0, nil
	case known && h.total() != n:
		v.cause, v.what = ErrLength, fmt.Sprintf("length field says %d bytes, the record itself %d", n, h.total())
		return v, 0, nil
	}
	behind = lengthBytes // without a header the length has no witness
	if known {
		behind, first = min(frameBytes(n), len(s.rest)), &h
	}
	switch {
	case n > len(s.rest) || frameBytes(n) > len(s.rest):
		v.torn, v.cause, v.what = true, ErrIncomplete, fmt.Sprintf("the file ends within a record of %d bytes", n)
	case s.hasZeroPiece(frameBytes(n)):
		v.torn, v.cause, v.what = true, ErrIncomplete, "a sector of this record was never written"
	case !known:
		v.cause, v.what = ErrMalformed, fmt.Sprintf("a record of %d bytes ends within its header", n)
	default:
		v.cause, v.what = ErrChecksum, fmt.Sprintf("the checksum of this record is %08x, computed %08x",
			h.crc, update(s.crc, body[h.bytes:]))
	}
	return v, behind, first
}

// classifyZero judges a length field of zero, the end of the log, behind which
// something stands all the same.
func (s suspect) classifyZero(v verdict) (verdict, int, *header) {
	sector := int(sectorBytes - s.off%sectorBytes)
	if sector = min(sector, len(s.rest)); !isZero(s.rest[:sector]) {
		v.cause, v.what = ErrLength, "length field is zero, but bytes of a record follow in the same sector"
		return v, 0, nil
	}
	v.torn, v.cause, v.what = true, ErrIncomplete, "a sector was never written"
	return v, sector, nil
}

// trustedHeader decodes the header of the record as far as its sectors are
// there. It is not known when a part of it is missing, and bad when what is
// there is no header.
func (s suspect) trustedHeader(body []byte) (h header, known, bad bool) {
	there := body[:min(len(body), maxHeaderBytes)]
	firstSector := int(sectorBytes - (s.off+lengthBytes)%sectorBytes)
	if firstSector < len(there) && s.pieceIsZero(firstSector, body) {
		there = there[:firstSector]
	}
	if firstSector == sectorBytes && s.pieceIsZero(0, body) {
		there = nil
	}
	h, short, ok := parseHeader(there)
	return h, ok, !short && !ok
}

// pieceIsZero tells whether the part of body from at to the end of that sector
// is zero.
func (s suspect) pieceIsZero(at int, body []byte) bool {
	sector := int(sectorBytes - (s.off+lengthBytes+int64(at))%sectorBytes)
	return isZero(body[at:min(at+sector, len(body))])
}

// hasZeroPiece tells whether one of the pieces into which sector boundaries cut
// the record, padding included, is all zero.
func (s suspect) hasZeroPiece(frame int) bool {
	body := s.rest[lengthBytes:frame]
	for at := 0; at < len(body); {
		if s.pieceIsZero(at, body) {
			return true
		}
		at += int(sectorBytes - (s.off+lengthBytes+int64(at))%sectorBytes)
	}
	return false
}

// stray is a record found behind the suspect.
type stray struct {
	at    int // from the suspect
	frame int
	rec   record
	state raftpb.HardState
}

// syncedBehind looks for the proof that the suspect had been synced: it returns
// the place of a record that a server would have written only then, or -1.
func (s suspect) syncedBehind(behind int, first *header) int {
	entry := first != nil && first.typ == typeEntry
	synced := first != nil && first.typ == typeSnapshot
	for _, f := range s.strays(behind, first) {
		if synced {
			return f.at
		}
		switch f.rec.typ {
		case typeEntry:
			entry = true
		case typeState: // ends its Save
			synced = entry || f.state.Term != s.state.Term || f.state.Vote != s.state.Vote
		case typeSnapshot: // a Save with entries before it has returned
			if entry {
				return f.at
			}
			synced = true
		}
	}
	return -1
}

// strays returns the records behind the suspect that are linked to a neighbour
// by the running checksum, in order; bytes that only look like one are not.
func (s suspect) strays(behind int, first *header) []stray {
	var all, linked []stray
	for at := (behind + 7) &^ 7; at+lengthBytes <= len(s.rest); {
		f, ok := s.strayAt(at)
		if !ok {
			at += 8
			if word := s.rest[at-8 : min(at, len(s.rest))]; isZero(word) {
				at += leadingZeroes(s.rest[min(at, len(s.rest)):]) &^ 7
			}
			continue
		}
		all = append(all, f)
		at += f.frame
	}
	links := func(a, b stray) bool { return a.at+a.frame == b.at && update(a.rec.crc, b.rec.data) == b.rec.crc }
	for i, f := range all {
		switch {
		case i > 0 && links(all[i-1], f), i+1 < len(all) && links(f, all[i+1]),
			i == 0 && first != nil && f.at == behind && update(first.crc, f.rec.data) == f.rec.crc:
			linked = append(linked, f)
		}
	}
	return linked
}

// strayAt decodes what may be a record at this place. Entries, states and
// snapshots only: the others stand at the start of a segment.
func (s suspect) strayAt(at int) (f stray, ok bool) {
	n, ok := parseLength(binary.LittleEndian.Uint64(s.rest[at:]))
	if !ok || n > len(s.rest)-at || frameBytes(n) > len(s.rest)-at {
		return f, false
	}
	f.at, f.frame = at, frameBytes(n)
	if f.rec, ok = parseRecord(s.rest[at+lengthBytes : at+lengthBytes+n]); !ok {
		return f, false
	}
	var err error
	switch f.rec.typ {
	case typeEntry:
		err = decodeEntry(f.rec.data, &raftpb.Entry{})
	case typeState:
		f.state, err = decodeState(f.rec.data)
	case typeSnapshot:
		_, err = decodeSnapshot(f.rec.data)
	default:
		return f, false
	}
	return f, err == nil
}

// leadingZeroes counts the zero bytes at the start of b.
func leadingZeroes(b []byte) int {
	n := 0
	for n < len(b) && isZero(b[n:min(n+sectorBytes, len(b))]) {
		n = min(n+sectorBytes, len(b))
	}
	if i := bytes.IndexFunc(b[n:], func(r rune) bool { return r != 0 }); i >= 0 {
		return n + i
	}
	return len(b)
}

// trailingZeroes counts the zero bytes at the end of b.
func trailingZeroes(b []byte) int {
	n := len(b)
	for n >= sectorBytes && isZero(b[n-sectorBytes:n]) {
		n -= sectorBytes
	}
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return len(b) - n
}
