package wal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.uber.org/zap"
)

// Create makes the log of a new member in dir, which must not hold one: the
// records crc, metadata and snapshot{0,0}. Where dir does not exist it is made
// in dir + ".tmp" and renamed; where it does (it may be a mount point) the
// segment gets its name last. So after a crash there is a whole log or none.
func Create(dir string, metadata []byte, o Options) (*WAL, error) {
	o = o.withDefaults()
	if Exists(o.FS, dir) {
		return nil, fmt.Errorf("create write-ahead log %s: %w", dir, os.ErrExist)
	}
	w := &WAL{dir: dir, fs: o.FS, o: o, meta: bytes.Clone(metadata), seg: newSegment(0, 0)}
	err := w.create()
	if err != nil {
		if w.tail != nil {
			w.tail.Close()
		}
		return nil, fmt.Errorf("create write-ahead log %s: %w", dir, err)
	}
	w.hold(heldSegment{w.seg, w.tail})
	return w, nil
}

func (w *WAL) create() error {
	work := w.dir
	_, err := w.fs.Stat(w.dir)
	fresh := errors.Is(err, os.ErrNotExist)
	if err != nil && !fresh {
		return err
	}
	if fresh {
		work = filepath.Clean(w.dir) + ".tmp"
		if err := w.fs.RemoveAll(work); err != nil {
			return err
		}
		if err := w.fs.MkdirAll(work, 0o700); err != nil {
			return err
		}
	}
	if err := w.createSegment(work); err != nil {
		return err
	}
	if fresh {
		if err := w.fs.Rename(work, w.dir); err != nil {
			return err
		}
	}
	return w.fs.SyncDir(filepath.Dir(filepath.Clean(w.dir)))
}

// createSegment makes the first segment in the directory work.
func (w *WAL) createSegment(work string) error {
	tmp := filepath.Join(work, "0.tmp")
	f, err := reserveFile(w.fs, tmp, w.o.SegmentBytes)
	if err != nil {
		return err
	}
	w.tail = f
	w.enc.checksum()
	w.enc.metadata(w.meta)
	if err := w.enc.snapshot(Snapshot{}); err != nil {
		return err
	}
	if err := w.write(w.enc.buf); err != nil {
		return err
	}
	if err := w.sync(f); err != nil {
		return err
	}
	if err := w.fs.Rename(tmp, filepath.Join(work, w.seg.name)); err != nil {
		return err
	}
	return w.fs.SyncDir(work)
}

// Open reads the log from the snapshot on, with every segment locked, and
// leaves it open for appending. A torn tail is repaired; other damage is a
// *DamageError and changes nothing. An error that wraps vfs.ErrLocked means that
// another server uses dir.
func Open(dir string, from Snapshot, o Options) (*WAL, *Contents, error) {
	o = o.withDefaults()
	segs, err := listFrom(o.FS, dir, from.Index)
	if err != nil {
		return nil, nil, err
	}
	w := &WAL{dir: dir, fs: o.FS, o: o}
	if err := w.lockAll(segs); err != nil {
		w.release()
		return nil, nil, err
	}
	s := &scan{dir: dir, from: from, entries: true}
	err = w.scanHeld(s)
	if err == nil {
		err = w.continueFrom(s)
	}
	if err != nil {
		w.release()
		return nil, nil, err
	}
	return w, &s.Contents, nil
}

func (w *WAL) lockAll(segs []segment) error {
	for _, seg := range segs {
		f, err := w.fs.OpenFile(w.path(seg), os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("open segment %s: %w", w.path(seg), err)
		}
		w.held = append(w.held, heldSegment{seg, f})
		if err := w.fs.Lock(f); err != nil {
			return fmt.Errorf("open segment %s: %w", w.path(seg), err)
		}
	}
	return nil
}

// scanHeld is readAll with the files that are open.
func (w *WAL) scanHeld(s *scan) error {
	for i, h := range w.held {
		at := where{file: w.path(h.segment), seq: h.seq, first: i == 0, last: i == len(w.held)-1}
		if err := s.segment(h.file, at); err != nil {
			return err
		}
	}
	return s.complete()
}

// continueFrom makes the log ready for appending behind what was scanned.
func (w *WAL) continueFrom(s *scan) error {
	tail := w.held[len(w.held)-1]
	w.tail, w.seg, w.off, w.filled = tail.file, tail.segment, s.off, s.off
	w.meta, w.state, w.lastIndex, w.enc.crc = s.Metadata, s.State, max(s.lastIndex, s.from.Index), s.crc
	if r := s.Repaired; r != nil {
		w.o.Logger.Warn("repairing the end of the write-ahead log", zap.String("path", r.File),
			zap.Int64("offset", r.Offset), zap.Int64("dropped-bytes", r.Dropped), zap.String("reason", r.What))
		if err := repair(w.fs, w.tail, r); err != nil {
			return err
		}
		w.o.Logger.Info("repaired the end of the write-ahead log", zap.String("path", r.File), zap.String("copy", r.Backup))
	}
	st, err := w.tail.Stat()
	if err != nil || st.Size() >= w.o.SegmentBytes {
		return err
	}
	if err := w.tail.Preallocate(w.o.SegmentBytes); err != nil {
		return fmt.Errorf("extend segment %s: %w", tail.name, err)
	}
	return w.sync(w.tail)
}
