package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"
)

// Bounds of a defragmentation: how much one step copies, during which a flush has
// to wait, and after how much the copy is synced, so that the sync at the end is short.
const (
	stepBytes = 1 << 20
	syncBytes = 32 << 20
)

// copier is a defragmentation under way: a copy of the file that has taken over
// all keys up to a place. A flush writes what lies before that place to both
// files; what lies after it the copier finds in the old file when it gets there.
// So the copy is exact once the place is the end, however much was written
// meanwhile, and no long read transaction keeps the old file from reusing pages.
type copier struct {
	db     *boltFile
	path   string
	begun  bool
	bucket Bucket // all buckets before it are copied,
	key    string // and of it the keys up to this one
	done   bool   // the place is the end
	copied int64  // bytes, all in all
	err    error  // of a flush that could not follow
}

// covers tells whether a key lies before the place; "" stands for the bucket itself.
func (c *copier) covers(bucket Bucket, key string) bool {
	switch {
	case c.done:
		return true
	case !c.begun:
		return false
	case bucket != c.bucket:
		return bucket < c.bucket
	}
	return key <= c.key
}

// follow repeats on the copy what a flush has just committed to the old file.
func (c *copier) follow(group []*layer) {
	if c.err == nil {
		c.err = c.db.Update(func(tx *bbolt.Tx) error { return writeLayers(tx, group, c.covers) })
	}
}

// step copies about stepBytes more.
func (c *copier) step(old *boltFile) error {
	if c.err != nil {
		return c.err
	}
	return old.View(func(from *bbolt.Tx) error {
		return c.db.Update(func(to *bbolt.Tx) error { return c.copyPiece(from, to) })
	})
}

func (c *copier) copyPiece(from, to *bbolt.Tx) error {
	names := from.Cursor()
	name, _ := names.Seek([]byte(c.bucket))
	for left := stepBytes; name != nil; name, _ = names.Next() {
		if Bucket(name) != c.bucket || !c.begun {
			c.begun, c.bucket, c.key = true, Bucket(name), ""
		}
		out, err := to.CreateBucketIfNotExists(name)
		if err != nil {
			return fmt.Errorf("create bucket %q: %w", name, err)
		}
		out.FillPercent = fillPercent
		if left, err = c.copyKeys(from.Bucket(name).Cursor(), out, left); err != nil {
			return fmt.Errorf("copy bucket %q: %w", name, err)
		}
		if left <= 0 {
			return nil
		}
	}
	c.done = true
	return nil
}

// copyKeys copies keys after the place until left bytes are used up, and returns
// what is left of them.
func (c *copier) copyKeys(in *bbolt.Cursor, out *bbolt.Bucket, left int) (int, error) {
	last := []byte(c.key)
	k, v := in.Seek(last)
	if k != nil && len(last) > 0 && bytes.Equal(k, last) {
		k, v = in.Next()
	}
	for ; k != nil && left > 0; k, v = in.Next() {
		if err := out.Put(k, v); err != nil {
			return 0, fmt.Errorf("key %x: %w", k, err)
		}
		last = k
		left -= len(k) + len(v) + overheadBytes
		c.copied += int64(len(k) + len(v))
	}
	c.key = string(last)
	return left, nil
}

// Defrag rewrites the file without its free pages while reads and writes go on.
// step, if not nil, is called between bounded steps. An error, also that of ctx,
// leaves the old file in use. There is one defragmentation at a time; a second
// call waits for the first.
func (b *Backend) Defrag(ctx context.Context, step func()) error {
	b.defragging.Lock()
	defer b.defragging.Unlock()
	if b.o.ReadOnly {
		return fmt.Errorf("defragment %s: it is opened read-only", b.o.Path)
	}
	c, err := b.startCopy()
	if err == nil {
		if err = b.copyAll(ctx, c, step); err == nil {
			err = b.swap(c)
		}
		if err != nil {
			b.abandon(c)
		}
	}
	if err != nil {
		return fmt.Errorf("defragment %s: %w", b.o.Path, err)
	}
	return nil
}

func (b *Backend) startCopy() (*copier, error) {
	b.mu.RLock()
	err := b.err
	b.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(b.o.Path), filepath.Base(b.o.Path)+tmpSuffix+"*")
	if err != nil {
		return nil, err
	}
	c := &copier{path: f.Name()}
	if err := f.Close(); err != nil {
		return nil, err
	}
	if c.db, err = openFile(b.o, c.path, false); err != nil {
		return nil, errors.Join(err, os.Remove(c.path))
	}
	c.db.NoSync, c.db.NoGrowSync = true, true // until the copy becomes the file
	b.fileMu.Lock()
	b.copy = c
	b.fileMu.Unlock()
	return c, nil
}

func (b *Backend) copyAll(ctx context.Context, c *copier, step func()) error {
	synced := int64(0)
	for done := false; !done; {
		if err := errors.Join(context.Cause(ctx), context.Cause(b.stopped)); err != nil {
			return err
		}
		b.fileMu.Lock()
		err := c.step(b.db)
		done = c.done
		copied := c.copied
		b.fileMu.Unlock()
		if err == nil && (copied-synced > syncBytes || done) {
			synced = copied
			err = b.syncCopy(c)
		}
		if err != nil {
			return err
		}
		if step != nil {
			step()
		}
	}
	return nil
}

func (b *Backend) syncCopy(c *copier) error {
	if b.o.NoSync {
		return nil
	}
	return c.db.Sync()
}

// swap makes the finished copy the file. Flushes wait meanwhile, writers and
// readers do not.
func (b *Backend) swap(c *copier) error {
	b.fileMu.Lock()
	defer b.fileMu.Unlock()
	if c.err != nil {
		return c.err
	}
	if err := b.syncCopy(c); err != nil { // what the last flushes added
		return err
	}
	view, err := newView(c.db)
	if err != nil {
		return err
	}
	if err := os.Rename(c.path, b.o.Path); err != nil {
		view.release()
		return err
	}
	c.db.NoSync, c.db.NoGrowSync = b.o.NoSync, false
	old := b.db
	b.db, b.copy, b.written = c.db, nil, true
	b.mu.Lock()
	before := b.size.Load()
	b.showLocked(view)
	b.mu.Unlock()
	b.goroutines.Go(func() { // waits for the readers of the old file
		if err := old.Close(); err != nil {
			b.o.Logger.Warn("close the file before defragmentation", zap.Error(err))
		}
	})
	b.o.Logger.Info("finished defragmenting", zap.String("path", b.o.Path),
		zap.Int64("size-before", before), zap.Int64("size-after", view.size))
	if b.o.NoSync {
		return nil
	}
	if err := syncDir(b.o.Path); err != nil {
		// A crash might bring the old file back, without what is written from now on.
		b.o.Fatal(fmt.Errorf("defragment %s: %w", b.o.Path, err))
	}
	return nil
}

// abandon removes a copy that will not be used.
func (b *Backend) abandon(c *copier) {
	b.fileMu.Lock()
	b.copy = nil
	b.fileMu.Unlock()
	if err := errors.Join(c.db.Close(), os.Remove(c.path)); err != nil {
		b.o.Logger.Warn("remove unfinished defragmentation", zap.String("path", c.path), zap.Error(err))
	}
}
