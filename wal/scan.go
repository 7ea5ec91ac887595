package wal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"theseus/internal/vfs"
)

// scan reads segments in order and gathers what they hold.
type scan struct {
	dir     string
	from    Snapshot
	entries bool // gather entries; otherwise they are only checked
	found   bool // the snapshot record of from
	// termAtFrom is the term of the entry at from.Index, 0 if there was none.
	termAtFrom uint64
	reader     reader

	Contents
	lastIndex uint64 // of the newest entry or snapshot: it names the next segment
	crc       uint32 // running checksum
	off       int64  // where the good part of the last segment ends
}

// where is the place of a record.
type where struct {
	file  string
	off   int64
	seq   uint64
	nth   int  // record of the segment, from 0
	first bool // the segment is the first one read
	last  bool // the segment is the last one
}

func (w where) damage(cause error, format string, args ...any) error {
	return damage(w.file, w.off, cause, format, args...)
}

// segment reads one segment.
func (s *scan) segment(f vfs.File, at where) error {
	if err := s.reader.reset(f); err != nil {
		return fmt.Errorf("open segment %s: %w", at.file, err)
	}
	for at.nth = 0; ; at.nth++ {
		at.off = s.reader.off
		rec, frame, what, err := s.reader.next(s.crc)
		if err != nil {
			return fmt.Errorf("read segment %s: %w", at.file, err)
		}
		switch what {
		case broken:
			return s.broken(at)
		case end:
			if at.nth < 2 {
				return at.damage(ErrIncomplete, "the segment ends before its metadata record")
			}
			s.off = at.off
			return nil
		}
		if err := s.record(rec, at); err != nil {
			return err
		}
		s.reader.take(frame)
	}
}

// broken handles a record that could not be read: it notes a write cut short,
// and returns an error for damage.
func (s *scan) broken(at where) error {
	rest, err := s.reader.rest()
	if err != nil {
		return fmt.Errorf("read segment %s: %w", at.file, err)
	}
	// The first records of a segment were synced before it got its name; in the
	// first segment of all they end with the empty snapshot.
	live := at.nth >= 2 && !(at.seq == 0 && at.nth == 2 && at.first)
	v := judge(suspect{off: at.off, rest: rest, crc: s.crc, last: at.last && live, state: s.State})
	if !v.torn {
		return at.damage(v.cause, "%s", v.what)
	}
	s.off = at.off
	s.Repaired = &Repair{
		File: at.file, Offset: at.off, What: v.what,
		Dropped: int64(len(rest) - trailingZeroes(rest)),
	}
	return nil
}

// record takes in one record whose checksum is right.
func (s *scan) record(rec record, at where) error {
	if (at.nth == 0) != (rec.typ == typeCRC) || (at.nth == 1) != (rec.typ == typeMetadata) {
		return at.damage(ErrMalformed, "record %d of the segment is of type %d", at.nth, rec.typ)
	}
	if rec.typ == typeCRC {
		if !at.first && rec.crc != s.crc {
			return at.damage(ErrChecksum, "the segment continues checksum %08x, the one before it ends with %08x", rec.crc, s.crc)
		}
		s.crc = rec.crc
		return nil
	}
	s.crc = rec.crc
	switch rec.typ {
	case typeMetadata:
		return s.metadata(rec.data, at)
	case typeEntry:
		return s.entry(rec.data, at)
	case typeState:
		st, err := decodeState(rec.data)
		if err != nil {
			return at.damage(ErrMalformed, "this is no hard state: %v", err)
		}
		s.State = st
		return nil
	case typeSnapshot:
		return s.snapshot(rec.data, at)
	}
	return at.damage(ErrUnknownRecord, "record type %d does not exist", rec.typ)
}

func (s *scan) metadata(data []byte, at where) error {
	if at.first {
		s.Metadata = bytes.Clone(data)
		return nil
	}
	if !bytes.Equal(data, s.Metadata) {
		return at.damage(ErrMetadataConflict, "the metadata is %x here and %x in earlier segments", data, s.Metadata)
	}
	return nil
}

func (s *scan) entry(data []byte, at where) error {
	var e raftpb.Entry
	if err := decodeEntry(data, &e); err != nil {
		return at.damage(ErrMalformed, "this is no entry: %v", err)
	}
	s.lastIndex = e.Index
	if !s.entries {
		return nil
	}
	if e.Index <= s.from.Index {
		// It ends the log behind it too, where another leader has overwritten a tail
		// up to here and no further.
		s.Entries = s.Entries[:0]
		if e.Index == s.from.Index {
			s.termAtFrom = e.Term
		}
		return nil
	}
	// An entry replaces the one of the same index and ends the log behind it: so
	// does a follower whose uncommitted tail another leader has overwritten.
	k := e.Index - s.from.Index - 1
	if k > uint64(len(s.Entries)) {
		return at.damage(ErrEntryGap, "entry %d follows entry %d", e.Index, s.from.Index+uint64(len(s.Entries)))
	}
	e.Data = bytes.Clone(e.Data)
	s.Entries = append(s.Entries[:k], e)
	return nil
}

func (s *scan) snapshot(data []byte, at where) error {
	snap, err := decodeSnapshot(data)
	if err != nil {
		return at.damage(ErrMalformed, "this is no snapshot record: %v", err)
	}
	s.lastIndex = max(s.lastIndex, snap.Index)
	s.Snapshots = append(s.Snapshots, snap)
	if snap.Index == s.from.Index {
		if s.entries && snap.Term != s.from.Term {
			return at.damage(ErrSnapshotMismatch, "the snapshot of index %d has term %d here and term %d in its file",
				snap.Index, snap.Term, s.from.Term)
		}
		s.found = true
		if s.termAtFrom != 0 && s.termAtFrom != snap.Term {
			// It was received, in place of a log that had another entry here: what
			// stands behind that entry went with it.
			s.Entries = s.Entries[:0]
		}
	}
	return nil
}

// complete checks what only the whole log can tell.
func (s *scan) complete() error {
	if !s.found {
		return damage(s.dir, -1, ErrSnapshotNotFound, "the log has no record of a snapshot of index %d and term %d",
			s.from.Index, s.from.Term)
	}
	if last := s.from.Index + uint64(len(s.Entries)); s.State.Commit > last {
		return damage(s.dir, -1, ErrCommitBeyondLog, "entries up to %d were committed, but the log ends at %d", s.State.Commit, last)
	}
	return nil
}

// withDefaults fills in the zero values.
func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.OS
	}
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = SegmentBytes
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// readAll scans segments without locks, each open only while it is read.
func readAll(fs vfs.FS, segs []segment, s *scan) error {
	for i, seg := range segs {
		at := where{file: filepath.Join(s.dir, seg.name), seq: seg.seq, first: i == 0, last: i == len(segs)-1}
		f, err := fs.OpenFile(at.file, os.O_RDONLY, 0)
		if err != nil {
			return fmt.Errorf("open segment %s: %w", at.file, err)
		}
		err = s.segment(f, at)
		f.Close() // it was only read
		if err != nil {
			return err
		}
	}
	return nil
}

// Read reads the log from the snapshot on. It takes no locks and changes
// nothing; what Open would repair is left out of the contents and described in
// Repaired. The log must not be in use: a write that is under way looks like
// damage.
func Read(dir string, from Snapshot, o Options) (*Contents, error) {
	o = o.withDefaults()
	segs, err := listFrom(o.FS, dir, from.Index)
	if err != nil {
		return nil, err
	}
	s := &scan{dir: dir, from: from, entries: true}
	if err := readAll(o.FS, segs, s); err != nil {
		return nil, err
	}
	if err := s.complete(); err != nil {
		return nil, err
	}
	return &s.Contents, nil
}

// Snapshots returns the snapshot records whose index is at most the last commit
// index in the whole log, oldest first: those that a member may start from.
// Like Read it changes nothing.
func Snapshots(dir string, o Options) ([]Snapshot, error) {
	o = o.withDefaults()
	segs, err := list(o.FS, dir)
	if err != nil {
		return nil, err
	}
	if len(segs) == 0 {
		return nil, damage(dir, -1, ErrNoSegments, "there is no write-ahead log")
	}
	if err := consecutive(dir, segs); err != nil {
		return nil, err
	}
	s := &scan{dir: dir}
	if err := readAll(o.FS, segs, s); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(s.Snapshots, func(x Snapshot) bool { return x.Index > s.State.Commit }), nil
}
