package wal

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"theseus/internal/vfs"
)

// SegmentBytes is the nominal size of a segment, in bytes, the same in every etcd.
const SegmentBytes = 64_000_000

// MaxRecordBytes is the largest record that every etcd can read back: 3.5.0 to
// 3.5.4 and late patches of 3.2 to 3.4 refuse larger ones. Save does not check
// it, whoever limits the size of a request does.
const MaxRecordBytes = 10 << 20

// Snapshot is a snapshot record: a snapshot of this index and term is on disk.
type Snapshot struct {
	Index, Term uint64
	// ConfState is the configuration as of Index. Etcd before 3.5 does not write
	// it; SaveSnapshot demands it for Index > 0.
	ConfState *raftpb.ConfState
}

// Options of Create, Open, Read and Snapshots. The zero value is what a server
// uses.
type Options struct {
	FS           vfs.FS      // default vfs.OS
	SegmentBytes int64       // a segment is left when it has reached this size; default SegmentBytes
	Logger       *zap.Logger // default zap.NewNop()
	UnsafeNoSync bool        // never sync: a power loss loses acknowledged entries and may need a rebuild
	// OnSync is told how long each sync of a segment took, OnWrite how many bytes
	// each write had and how long it took. Both are called by the goroutine that
	// calls Save.
	OnSync  func(time.Duration)
	OnWrite func(bytes int, took time.Duration)
}

// Contents is what Open and Read found in the log from a snapshot onwards.
type Contents struct {
	Metadata  []byte           // raw, as in the first record; see ParseMetadata
	State     raftpb.HardState // the last one
	Entries   []raftpb.Entry   // of index > from.Index, without gaps
	Snapshots []Snapshot       // every snapshot record met, in order
	Repaired  *Repair          // nil when the tail was clean
}

// Repair describes a write that was cut short at the end of the last segment.
type Repair struct {
	File    string // the segment
	Offset  int64  // where its good part ends, in bytes
	Dropped int64  // bytes behind Offset up to the last one that is not zero
	What    string // was found there
	Backup  string // copy of the segment as it was; empty from Read, which repairs nothing
}

// WAL is a log open for appending.
type WAL struct {
	dir  string
	fs   vfs.FS
	o    Options
	meta []byte // raw, repeated in every segment

	// Of the goroutine that calls Save.
	enc       encoder
	tail      vfs.File
	seg       segment // of the tail
	off       int64   // where the next record goes
	filled    int64   // the tail holds written zeroes, not only reserved space, up to here
	state     raftpb.HardState
	lastIndex uint64 // of the newest entry or snapshot
	err       error  // the first failure; nothing is tried after it

	mu   sync.Mutex
	held []heldSegment // locked, oldest first; the last one is the tail; guarded by mu

	prep     sync.Mutex // held while the next segment is made or taken
	next     *prepared  // guarded by prep
	made     int        // segments prepared so far; guarded by prep
	closed   bool       // guarded by prep
	ready    atomic.Bool
	hurrying atomic.Bool // Save waits for prep
}

// heldSegment is a segment that Purge must leave alone.
type heldSegment struct {
	segment
	file vfs.File
}

// Save appends the entries and then the hard state (unless it is empty) in one
// write, and syncs it when there are entries or the term or vote is new. It
// moves to a new segment when this one is full. It keeps nothing of ents.
func (w *WAL) Save(st raftpb.HardState, ents []raftpb.Entry) error {
	if w.err != nil {
		return w.err
	}
	empty := st == raftpb.HardState{}
	if empty && len(ents) == 0 {
		return nil
	}
	w.enc.reset()
	for i := range ents {
		w.enc.entry(&ents[i])
	}
	must := len(ents) > 0
	if must {
		w.lastIndex = ents[len(ents)-1].Index
	}
	if !empty {
		must = must || st.Term != w.state.Term || st.Vote != w.state.Vote
		w.enc.state(st)
		w.state = st
	}
	return w.flush(must)
}

// SaveSnapshot appends a snapshot record and syncs it. The snapshot itself must
// be durable by then.
func (w *WAL) SaveSnapshot(s Snapshot) error {
	if w.err != nil {
		return w.err
	}
	if s.Index > 0 && s.ConfState == nil {
		return ErrNoConfState
	}
	w.enc.reset()
	if err := w.enc.snapshot(s); err != nil {
		return err
	}
	w.lastIndex = max(w.lastIndex, s.Index)
	return w.flush(true)
}

// Sync makes everything that was saved durable, commit indexes included.
func (w *WAL) Sync() error {
	if w.err != nil {
		return w.err
	}
	return w.fail(w.sync(w.tail))
}

// fail makes an error stick.
func (w *WAL) fail(err error) error {
	if err != nil && w.err == nil {
		w.err = err
	}
	return err
}

// flush writes what was encoded and syncs it if it must; a full segment is left,
// which syncs it too.
func (w *WAL) flush(must bool) error {
	err := w.write(w.enc.buf)
	switch {
	case err != nil:
	case w.off >= w.o.SegmentBytes:
		err = w.cut()
	case must:
		err = w.sync(w.tail)
	}
	return w.fail(err)
}

// fillBytes is how far ahead of the records zeroes are written.
const fillBytes = 256 << 10

func (w *WAL) write(b []byte) error {
	start := time.Now()
	if _, err := w.tail.WriteAt(b, w.off); err != nil {
		return fmt.Errorf("write segment %s: %w", w.path(w.seg), err)
	}
	if w.o.OnWrite != nil {
		w.o.OnWrite(len(b), time.Since(start))
	}
	w.off += int64(len(b))
	if w.off > w.filled {
		return w.fill()
	}
	return nil
}

// fill writes zeroes ahead of the records. Space that is only reserved has to be
// marked as written when it is, which the sync then pays for with a commit of
// the file system's journal: zeroes once in fillBytes make every other sync
// cheaper by a third or more. They change nothing that a reader sees.
func (w *WAL) fill() error {
	w.filled = w.off
	if w.o.UnsafeNoSync {
		return nil
	}
	end := min(w.off+fillBytes, w.o.SegmentBytes)
	if end <= w.off {
		return nil
	}
	if _, err := w.tail.WriteAt(zeroes[:end-w.off], w.off); err != nil {
		return fmt.Errorf("write segment %s: %w", w.path(w.seg), err)
	}
	w.filled = end
	return nil
}

func (w *WAL) sync(f vfs.File) error {
	if w.o.UnsafeNoSync {
		return nil
	}
	start := time.Now()
	if err := f.Datasync(); err != nil {
		return fmt.Errorf("sync segment %s: %w", w.path(w.seg), err)
	}
	if w.o.OnSync != nil {
		w.o.OnSync(time.Since(start))
	}
	return nil
}

// ReleaseTo gives up the locks on segments that hold only entries below index,
// the index of a durable snapshot, so that Purge may remove them. It may run
// beside Save.
func (w *WAL) ReleaseTo(index uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.held) == 0 {
		return ErrClosed
	}
	keep := 0
	for i, s := range w.held {
		if s.index < index {
			keep = i
		}
	}
	var errs []error
	for _, s := range w.held[:keep] {
		errs = append(errs, s.file.Close())
	}
	w.held = append([]heldSegment(nil), w.held[keep:]...)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("release segments: %w", err)
	}
	return nil
}

// Purge removes the oldest released segments while more than keep remain, and
// returns their names. keep ≤ 0 removes nothing. It stops at the first one that
// is locked, by this log or by another process. It may run beside Save.
func (w *WAL) Purge(keep int) (removed []string, err error) {
	if keep <= 0 {
		return nil, nil
	}
	segs, err := list(w.fs, w.dir)
	if err != nil {
		return nil, err
	}
	for ; len(segs) > keep; segs = segs[1:] {
		if w.holds(segs[0]) {
			return removed, nil
		}
		err := w.purge(segs[0])
		if errors.Is(err, vfs.ErrLocked) {
			return removed, nil
		}
		if err != nil {
			return removed, fmt.Errorf("purge segment %s: %w", segs[0].name, err)
		}
		removed = append(removed, segs[0].name)
	}
	return removed, nil
}

// purge removes one segment. The directory is synced each time: a crash must not
// leave a hole in the sequence.
func (w *WAL) purge(s segment) error {
	f, err := w.fs.OpenFile(w.path(s), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := w.fs.Lock(f); err != nil {
		return err
	}
	if err := w.fs.Remove(w.path(s)); err != nil {
		return err
	}
	return w.fs.SyncDir(w.dir)
}

func (w *WAL) holds(s segment) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.held) == 0 || s.seq >= w.held[0].seq
}

// Close syncs and closes the segments and gives up the locks.
func (w *WAL) Close() error {
	w.hurrying.Store(true) // no need to finish a segment that is being prepared
	w.prep.Lock()
	defer w.prep.Unlock()
	if w.closed {
		return ErrClosed
	}
	w.closed = true
	var errs []error
	if w.err == nil {
		errs = append(errs, w.sync(w.tail))
	}
	errs = append(errs, w.drop(), w.release())
	w.fail(ErrClosed)
	return errors.Join(errs...)
}

// release closes every segment that is held.
func (w *WAL) release() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, s := range w.held {
		errs = append(errs, s.file.Close())
	}
	w.held = nil
	return errors.Join(errs...)
}
