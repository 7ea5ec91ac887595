package wal

import (
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"

	"theseus/internal/vfs"
)

// prepared is a segment file made ahead of time, under its temporary name.
type prepared struct {
	file   vfs.File
	path   string
	filled int64 // see WAL.filled
}

func (w *WAL) path(s segment) string { return filepath.Join(w.dir, s.name) }

// fillStep is how much of a prepared segment is filled between two syncs: a
// short one each time, so that the syncs of Save beside it do not wait long.
const fillStep = 1 << 20

// Prepared tells whether the next segment file is there.
func (w *WAL) Prepared() bool { return w.ready.Load() }

// Prepare makes the next segment file ahead of time, so that Save need not, and
// fills it with zeroes, which makes the syncs of its records cheaper. It is
// meant for another goroutine than that of Save, after Open or Create and
// whenever Prepared is false; then it does nothing. It takes as long as writing
// SegmentBytes does; a Save that needs the file meanwhile takes it as it is.
func (w *WAL) Prepare() error {
	w.prep.Lock()
	defer w.prep.Unlock()
	if w.closed {
		return ErrClosed
	}
	if w.next != nil {
		return nil
	}
	if err := w.reserve(); err != nil {
		return err
	}
	for w.next.filled < w.o.SegmentBytes && !w.o.UnsafeNoSync && !w.hurrying.Load() {
		if err := w.fillNext(); err != nil {
			w.drop() // a file whose sync has failed is not to be trusted
			return err
		}
	}
	w.ready.Store(true)
	return nil
}

// fillNext writes the next zeroes of the prepared segment.
func (w *WAL) fillNext() error {
	p := w.next
	for end := min(p.filled+fillStep, w.o.SegmentBytes); p.filled < end; {
		n := min(end-p.filled, int64(len(zeroes)))
		if _, err := p.file.WriteAt(zeroes[:n], p.filled); err != nil {
			return fmt.Errorf("fill segment %s: %w", p.path, err)
		}
		p.filled += n
	}
	if err := p.file.Datasync(); err != nil {
		return fmt.Errorf("fill segment %s: %w", p.path, err)
	}
	return nil
}

// reserve makes w.next; the caller holds w.prep.
func (w *WAL) reserve() error {
	path := filepath.Join(w.dir, fmt.Sprintf("%d.tmp", w.made%2))
	f, err := reserveFile(w.fs, path, w.o.SegmentBytes)
	if err != nil {
		return err
	}
	w.made++
	w.next = &prepared{file: f, path: path}
	return nil
}

// reserveFile makes a locked file of zeroes. What an earlier run left under that
// name is thrown away first.
func reserveFile(fs vfs.FS, path string, size int64) (vfs.File, error) {
	f, err := fs.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make segment: %w", err)
	}
	if err = fs.Lock(f); err == nil {
		err = f.Preallocate(size)
	}
	if err != nil {
		f.Close()
		fs.Remove(path) // a best effort, it holds nothing
		return nil, fmt.Errorf("make segment %s: %w", path, err)
	}
	return f, nil
}

// take returns the prepared segment, which it makes if nobody has.
func (w *WAL) take() (*prepared, error) {
	w.hurrying.Store(true)
	defer w.hurrying.Store(false)
	w.prep.Lock()
	defer w.prep.Unlock()
	if w.next == nil {
		if err := w.reserve(); err != nil {
			return nil, err
		}
	}
	p := w.next
	w.next = nil
	w.ready.Store(false)
	return p, nil
}

// drop removes the prepared segment; the caller holds w.prep.
func (w *WAL) drop() error {
	if w.next == nil {
		return nil
	}
	p := w.next
	w.next = nil
	w.ready.Store(false)
	err := w.fs.Remove(p.path)
	if cerr := p.file.Close(); err == nil {
		err = cerr
	}
	return err
}

// cut leaves the full tail, cut to its real length, for a new segment. The new
// one gets its name only when its first records are durable, so a crash leaves
// either the old tail or a complete new one.
func (w *WAL) cut() error {
	if err := w.tail.Truncate(w.off); err != nil {
		return fmt.Errorf("cut segment %s: %w", w.path(w.seg), err)
	}
	if err := w.sync(w.tail); err != nil {
		return err
	}
	p, err := w.take()
	if err != nil {
		return err
	}
	seg := newSegment(w.seg.seq+1, w.lastIndex+1)
	w.enc.reset()
	w.enc.checksum()
	w.enc.metadata(w.meta)
	if w.state != (raftpb.HardState{}) {
		w.enc.state(w.state)
	}
	w.tail, w.off, w.filled = p.file, 0, p.filled
	w.hold(heldSegment{seg, p.file})
	if err := w.write(w.enc.buf); err != nil {
		return err
	}
	if err := w.sync(w.tail); err != nil {
		return err
	}
	if err := w.fs.Rename(p.path, w.path(seg)); err != nil {
		return fmt.Errorf("name segment %s: %w", seg.name, err)
	}
	if err := w.fs.SyncDir(w.dir); err != nil {
		return fmt.Errorf("sync write-ahead log directory: %w", err)
	}
	w.seg = seg
	return nil
}

func (w *WAL) hold(s heldSegment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = append(w.held, s)
}
