package backend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"theseus/internal/must"
)

// ErrClosed is returned by what cannot be done after Close.
var ErrClosed = errors.New("backend is closed")

// Backend is one open file. See the package documentation for who may call what.
type Backend struct {
	o Options

	// mu guards what follows; it is held for short steps in memory only.
	mu      sync.RWMutex
	room    *sync.Cond // on mu: pending bytes went down, or the backend failed
	inUnit  bool
	sealEnd bool     // seal the active layer at the end of the unit under way
	armed   bool     // the flush timer runs for the active layer
	active  *layer   // the writer's
	sealed  []*layer // immutable, oldest first, waiting for their flush
	pending int64    // bytes of the active and the sealed layers
	view    *fileView
	err     error // sticky: why the file can no longer be written; ErrClosed after Close

	// fileMu is held by whoever writes the file: a flush, a step of a
	// defragmentation, the swap at its end. Order: fileMu before mu.
	fileMu sync.Mutex
	db     *boltFile // guarded by fileMu
	copy   *copier   // guarded by fileMu: the defragmentation under way, or nil
	// written says, under fileMu, that the file was changed: one that was only opened,
	// by a member that then refused to start, is left as it is.
	written bool

	size, sizeInUse atomic.Int64

	wake       chan struct{} // tells the flusher to look
	stop       context.CancelCauseFunc
	stopped    context.Context
	goroutines sync.WaitGroup
	defragging sync.Mutex // held by Defrag, of which there is one at a time
}

// Open opens or creates the file. It refuses a damaged file with a *DamageError
// and one that another process holds with an error that names the process; a
// refusal changes nothing on disk.
func Open(o Options) (*Backend, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	db, err := openFile(o, o.Path, true)
	if err != nil {
		return nil, err
	}
	b := &Backend{o: o, db: db, active: newLayer(0), wake: make(chan struct{}, 1)}
	b.room = sync.NewCond(&b.mu)
	b.stopped, b.stop = context.WithCancelCause(context.Background())
	if b.view, err = newView(db); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", o.Path, err), db.Close())
	}
	b.size.Store(b.view.size)
	b.sizeInUse.Store(b.view.sizeInUse)
	if !o.ReadOnly {
		removeLeftovers(o.Path)
		b.goroutines.Go(b.flusher)
	}
	return b, nil
}

// openFile opens one bbolt file, checked first if check is set.
func openFile(o Options, path string, check bool) (*boltFile, error) {
	_, err := os.Stat(path)
	fresh := errors.Is(err, os.ErrNotExist)
	f, err := openLocked(path, o.ReadOnly, o.LockTimeout)
	if err != nil {
		return nil, err
	}
	if check {
		if err := checkFile(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	db, err := openBolt(path, f, &bbolt.Options{
		NoFreelistSync:  true, // as etcd since 3.3: a commit writes what changed, open finds the free pages
		FreelistType:    bbolt.FreelistType(o.FreelistType),
		ReadOnly:        o.ReadOnly,
		PreLoadFreelist: true, // for SizeInUse
		InitialMmapSize: int(o.MapBytes),
		NoSync:          o.NoSync,
		OpenFile:        func(string, int, os.FileMode) (*os.File, error) { return f, nil },
	})
	if err != nil {
		return nil, err
	}
	if fresh && !o.NoSync {
		if err := syncDir(path); err != nil {
			return nil, errors.Join(err, db.Close())
		}
	}
	return &boltFile{DB: db}, nil
}

// openBolt turns bbolt's panics about pages that checkFile does not know to be
// bad into an error.
func openBolt(path string, f *os.File, o *bbolt.Options) (db *bbolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.Join(&DamageError{File: path, What: fmt.Sprint(p)}, f.Close())
		}
	}()
	db, err = bbolt.Open(path, 0o600, o) // closes f if it fails
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

// Begin starts a unit. It waits while more than PendingLimitBytes are pending.
func (b *Backend) Begin() {
	must.True(!b.o.ReadOnly, "a write to a file opened read-only")
	b.mu.Lock()
	defer b.mu.Unlock()
	must.True(!b.inUnit, "Begin within a unit")
	if b.pending > b.o.PendingLimitBytes {
		b.sealLocked() // or nothing would make room
		for b.pending > b.o.PendingLimitBytes && b.err == nil {
			b.room.Wait()
		}
	}
	b.inUnit = true
}

// End finishes the unit.
func (b *Backend) End() {
	b.mu.Lock()
	defer b.mu.Unlock()
	must.True(b.inUnit, "End without Begin")
	b.inUnit = false
	switch {
	case b.sealEnd, b.active.ops >= b.o.FlushOps && len(b.sealed) == 0:
		b.sealLocked()
	case b.active.ops > 0 && !b.armed:
		b.armed = true
		b.signal()
	}
}

// Put sets key to value within a unit. Both slices are kept and must not be
// modified later.
func (b *Backend) Put(bucket Bucket, key, value []byte) {
	if len(key) == 0 || len(key) > MaxKeyBytes { // no must.True: boxing its arguments would cost more than the put
		panic(fmt.Sprintf("invariant broken: key of %d bytes put in bucket %q", len(key), bucket))
	}
	if value == nil {
		value = empty
	}
	b.write(bucket, key, value)
}

// Delete removes key within a unit; a missing key is fine. The slice is kept.
func (b *Backend) Delete(bucket Bucket, key []byte) { b.write(bucket, key, nil) }

var empty = []byte{}

// write notes one operation; a nil value deletes.
func (b *Backend) write(bucket Bucket, key, value []byte) {
	b.mu.Lock()
	must.True(b.inUnit, "a write outside a unit")
	b.pending += b.active.write(bucket, key, value)
	b.mu.Unlock()
}

// CreateBuckets makes the buckets exist, within the writer's unit or, if none is
// open, in one of its own. If all exist it writes nothing. In a file opened
// read-only it does nothing: a bucket that is missing reads as an empty one.
func (b *Backend) CreateBuckets(buckets ...Bucket) error {
	b.mu.RLock()
	inUnit, err := b.inUnit, b.err
	var missing []Bucket
	for _, name := range buckets {
		must.True(name != "", "a bucket without a name")
		if b.view != nil && b.view.buckets[name] == nil {
			missing = append(missing, name)
		}
	}
	b.mu.RUnlock()
	if err != nil || len(missing) == 0 || b.o.ReadOnly {
		return err
	}
	if !inUnit {
		b.Begin()
		defer b.End()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range missing {
		b.active.run(name)
		b.active.ops++
	}
	return nil
}

// Size returns the length in bytes of the used part of the file, as of the last flush.
func (b *Backend) Size() int64 { return b.size.Load() }

// SizeInUse returns Size without the free pages.
func (b *Backend) SizeInUse() int64 { return b.sizeInUse.Load() }

// Close flushes, and closes the file once its readers are done. It stops a
// defragmentation under way. It must not be called within a unit.
func (b *Backend) Close() error {
	b.stop(ErrClosed)
	b.defragging.Lock() // until the defragmentation has cleaned up
	defer b.defragging.Unlock()
	if b.o.ReadOnly {
		return b.closeFile(nil)
	}
	err := b.Flush()
	if errors.Is(err, ErrClosed) {
		return nil // a second Close
	}
	return b.closeFile(err)
}

// closeFile is the end of Close, after a flush that returned err.
func (b *Backend) closeFile(err error) error {
	b.mu.Lock()
	view := b.view
	b.view = nil
	if b.err == nil {
		b.err = ErrClosed
	}
	b.mu.Unlock()
	if view == nil {
		return nil
	}
	b.signal()
	b.goroutines.Wait()
	view.release()
	b.fileMu.Lock()
	defer b.fileMu.Unlock()
	if err == nil && b.written {
		err = b.writeFreelist()
	}
	if err := errors.Join(err, b.db.Close()); err != nil {
		return fmt.Errorf("close %s: %w", b.o.Path, err)
	}
	return nil
}

// writeFreelist leaves the list of free pages in the file, so that the next Open
// need not walk all pages to find them.
func (b *Backend) writeFreelist() error {
	b.db.NoFreelistSync = false
	return b.db.Update(func(*bbolt.Tx) error { return nil })
}

// fail records why the file can no longer be written and tells everyone who waits.
func (b *Backend) fail(err error) {
	b.mu.Lock()
	if b.err == nil {
		b.err = err
	}
	for _, l := range b.sealed {
		l.settle(nil, b.err)
	}
	b.active.settle(nil, b.err)
	b.room.Broadcast()
	b.mu.Unlock()
	b.o.Logger.Error("backend can no longer be written", zap.String("path", b.o.Path), zap.Error(err))
	b.o.Fatal(err)
}

func (b *Backend) signal() {
	select {
	case b.wake <- struct{}{}:
	default: // one is under way already
	}
}

// told reports a finished flush.
func (b *Backend) told(took time.Duration) {
	if b.o.OnFlush != nil {
		b.o.OnFlush(took)
	}
}
