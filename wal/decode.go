package wal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// The checksum of a record does not cover its type, so one flipped bit turns an
// entry into a hard state, and its fields happen to decode. The decoders here
// therefore take only what a writer can have meant by the type: known fields,
// once, of values that raft produces.

var (
	errTruncated = errors.New("it ends within a field")
	errField     = errors.New("it has a field that is not of its type")
)

// field is one protobuf field: val of a varint, data of a length-delimited one.
type field struct {
	num  int
	wire int
	val  uint64
	data []byte
}

// nextField splits the first field off b. data aliases b.
func nextField(b []byte) (f field, rest []byte, err error) {
	tag, n := binary.Uvarint(b)
	if n <= 0 {
		return f, nil, errTruncated
	}
	if tag > 1<<29 {
		return f, nil, errField
	}
	f.num, f.wire = int(tag>>3), int(tag&7)
	b = b[n:]
	f.val, n = binary.Uvarint(b)
	if n <= 0 {
		return f, nil, errTruncated
	}
	b = b[n:]
	switch f.wire {
	case 0:
		return f, b, nil
	case 2:
		if f.val > uint64(len(b)) {
			return f, nil, errTruncated
		}
		f.data = b[:f.val]
		return f, b[f.val:], nil
	}
	return f, nil, errField
}

// decodeVarints decodes a message of varint fields 1 to len(out) only. It
// returns which were present, as bits.
func decodeVarints(b []byte, out []uint64) (seen uint, err error) {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return 0, err
		}
		if f.wire != 0 || f.num < 1 || f.num > len(out) || seen&(1<<f.num) != 0 {
			return 0, errField
		}
		seen |= 1 << f.num
		out[f.num-1] = f.val
		b = rest
	}
	return seen, nil
}

// decodeEntry decodes an entry. Its Data aliases b.
func decodeEntry(b []byte, e *raftpb.Entry) error {
	var seen uint
	*e = raftpb.Entry{}
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return err
		}
		if seen&(1<<(f.num&15)) != 0 {
			return errField
		}
		seen |= 1 << (f.num & 15)
		switch {
		case f.num == 1 && f.wire == 0 && f.val <= uint64(raftpb.EntryConfChangeV2):
			e.Type = raftpb.EntryType(f.val)
		case f.num == 2 && f.wire == 0:
			e.Term = f.val
		case f.num == 3 && f.wire == 0:
			e.Index = f.val
		case f.num == 4 && f.wire == 2:
			e.Data = f.data
		default:
			return errField
		}
		b = rest
	}
	switch {
	case e.Index == 0 || e.Term == 0:
		return errors.New("an entry has an index and a term")
	case e.Type != raftpb.EntryNormal && len(e.Data) == 0:
		return errors.New("an entry that changes the configuration says how")
	}
	return nil
}

// decodeState decodes a hard state.
func decodeState(b []byte) (raftpb.HardState, error) {
	var v [3]uint64
	if _, err := decodeVarints(b, v[:]); err != nil {
		return raftpb.HardState{}, err
	}
	if v[0] == 0 {
		return raftpb.HardState{}, errors.New("a hard state has a term")
	}
	return raftpb.HardState{Term: v[0], Vote: v[1], Commit: v[2]}, nil
}

// decodeSnapshot decodes a snapshot record.
func decodeSnapshot(b []byte) (s Snapshot, err error) {
	var seen uint
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return s, err
		}
		if seen&(1<<(f.num&15)) != 0 {
			return s, errField
		}
		seen |= 1 << (f.num & 15)
		switch {
		case f.num == 1 && f.wire == 0:
			s.Index = f.val
		case f.num == 2 && f.wire == 0:
			s.Term = f.val
		case f.num == 3 && f.wire == 2:
			s.ConfState = &raftpb.ConfState{}
			if err := s.ConfState.Unmarshal(f.data); err != nil {
				return s, fmt.Errorf("decode conf state: %w", err)
			}
		default:
			return s, errField
		}
		b = rest
	}
	if seen == 0 {
		return s, errors.New("it is empty")
	}
	return s, nil
}

// ParseMetadata decodes the metadata record of a member.
func ParseMetadata(b []byte) (nodeID, clusterID uint64, err error) {
	var v [2]uint64
	if _, err := decodeVarints(b, v[:]); err != nil {
		return 0, 0, fmt.Errorf("decode wal metadata: %w", err)
	}
	return v[0], v[1], nil
}
