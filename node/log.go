package node

import (
	"fmt"
	"slices"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Log is the part of the raft log that is in memory: what raft, Disk and Feeder share.
// It is a raft.Storage. Unlike raft.MemoryStorage it copies nothing when it grows or
// is compacted: entries stand in blocks of a fixed size. Entries that were handed out
// do not change when their indexes are overwritten later.
type Log struct {
	hard raftpb.HardState
	conf raftpb.ConfState

	mu sync.Mutex // guards what follows
	// snap is what raft announces to those who need entries that are gone.
	snap raftpb.SnapshotMetadata
	// The entries up to prev are gone; prevTerm is the term of that one.
	prev, prevTerm uint64
	last           uint64
	// blocks[0][0] has index base ≤ prev+1. All blocks but the last are full.
	base   uint64
	blocks [][]raftpb.Entry
	bytes  int64 // of the data of all entries behind prev
}

// blockEntries is also how many entries may stay in memory longer than needed.
const blockEntries = 512

func newLog() *Log { return &Log{base: 1} }

// InitialState implements raft.Storage.
func (l *Log) InitialState() (raftpb.HardState, raftpb.ConfState, error) { return l.hard, l.conf, nil }

// FirstIndex implements raft.Storage.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.prev + 1, nil
}

// LastIndex implements raft.Storage.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, nil
}

// Term implements raft.Storage.
func (l *Log) Term(i uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.term(i)
}

func (l *Log) term(i uint64) (uint64, error) {
	switch {
	case i < l.prev:
		return 0, raft.ErrCompacted
	case i == l.prev:
		return l.prevTerm, nil
	case i > l.last:
		return 0, raft.ErrUnavailable
	}
	return l.at(i).Term, nil
}

// at is the entry of an index that is there.
func (l *Log) at(i uint64) *raftpb.Entry {
	return &l.blocks[(i-l.base)/blockEntries][(i-l.base)%blockEntries]
}

func dataBytes(ents []raftpb.Entry) (n int64) {
	for i := range ents {
		n += int64(len(ents[i].Data))
	}
	return n
}

// Bytes is the size of the data of all entries in memory.
func (l *Log) Bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// cutFor is the index up to which entries must go, of those up to applied, for at most
// limit bytes to stay.
func (l *Log) cutFor(limit int64, applied uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, left := l.prev, l.bytes
	for left > limit && i < min(applied, l.last) {
		i++
		left -= int64(len(l.at(i).Data))
	}
	return i
}

// Snapshot implements raft.Storage. It has no data: what is sent to a peer is made when
// it is sent.
func (l *Log) Snapshot() (raftpb.Snapshot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return raftpb.Snapshot{Metadata: l.snap}, nil
}

// Entries implements raft.Storage.
func (l *Log) Entries(lo, hi, maxSize uint64) ([]raftpb.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case lo <= l.prev:
		return nil, raft.ErrCompacted
	case hi > l.last+1:
		return nil, raft.ErrUnavailable
	case lo >= hi:
		return nil, nil
	}
	var out []raftpb.Entry
	var size uint64
	for lo < hi {
		block := l.blocks[(lo-l.base)/blockEntries]
		at := (lo - l.base) % blockEntries
		part := block[at:min(uint64(len(block)), at+hi-lo)]
		n := 0
		for n < len(part) {
			if size += uint64(part[n].Size()); size > maxSize && (n > 0 || len(out) > 0) {
				hi = lo + uint64(n)
				break
			}
			n++
		}
		part = part[:n:n]
		if out == nil {
			out = part // most often all of it: no copy
		} else {
			out = append(out, part...)
		}
		lo += uint64(n)
	}
	return out, nil
}

// Append adds entries behind what is there, in place of what has their indexes.
func (l *Log) Append(ents []raftpb.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(ents) > 0 && ents[0].Index <= l.prev {
		ents = ents[min(uint64(len(ents)), l.prev+1-ents[0].Index):]
	}
	if len(ents) == 0 {
		return nil
	}
	first := ents[0].Index
	if first > l.last+1 {
		return fmt.Errorf("entry %d follows entry %d", first, l.last)
	}
	l.truncate(first)
	for len(ents) > 0 {
		if n := len(l.blocks); n == 0 || len(l.blocks[n-1]) == blockEntries {
			l.blocks = append(l.blocks, make([]raftpb.Entry, 0, blockEntries))
		}
		block := &l.blocks[len(l.blocks)-1]
		n := min(len(ents), blockEntries-len(*block))
		*block = append(*block, ents[:n]...)
		l.bytes += dataBytes(ents[:n])
		l.last = ents[n-1].Index
		ents = ents[n:]
	}
	return nil
}

// truncate drops the entries from index first on.
func (l *Log) truncate(first uint64) {
	if first > l.last {
		return
	}
	k, at := (first-l.base)/blockEntries, (first-l.base)%blockEntries
	// Somebody may still read what stands behind, so its place is not written to.
	kept := append(make([]raftpb.Entry, 0, blockEntries), l.blocks[k][:at]...)
	l.bytes -= dataBytes(l.blocks[k][at:])
	for _, b := range l.blocks[k+1:] {
		l.bytes -= dataBytes(b)
	}
	clear(l.blocks[k:])
	l.blocks = append(l.blocks[:k], kept)
	l.last = first - 1
}

// Install replaces everything by a snapshot, unless what is there is as new.
func (l *Log) Install(at raftpb.SnapshotMetadata) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at.Index <= l.snap.Index {
		return
	}
	l.snap = at
	l.prev, l.prevTerm, l.last = at.Index, at.Term, at.Index
	l.base, l.blocks, l.bytes = at.Index+1, nil, 0
}

// Compact forgets the entries up to index upTo, and lets raft announce a snapshot as of
// applied, which has the configuration conf.
func (l *Log) Compact(applied uint64, conf raftpb.ConfState, upTo uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if applied <= l.snap.Index || upTo <= l.prev {
		return nil // a received snapshot has overtaken it
	}
	term, err := l.term(applied)
	if err != nil {
		return fmt.Errorf("term of applied index %d: %w", applied, err)
	}
	if l.prevTerm, err = l.term(upTo); err != nil {
		return fmt.Errorf("term of index %d: %w", upTo, err)
	}
	l.snap = raftpb.SnapshotMetadata{Index: applied, Term: term, ConfState: conf}
	for l.prev < upTo {
		l.prev++
		l.bytes -= int64(len(l.at(l.prev).Data))
	}
	if gone := (upTo + 1 - l.base) / blockEntries; gone > 0 {
		l.blocks = slices.Delete(l.blocks, 0, int(gone))
		l.base += gone * blockEntries
	}
	return nil
}

var _ raft.Storage = (*Log)(nil)
