package backend

import (
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// fillPercent is how full bbolt leaves pages when it splits them: new revisions
// only ever go to the end of "key", so that half-empty pages would stay so.
const fillPercent = 0.9

// sealLocked hands the active layer to the flusher. It needs mu and no open unit.
func (b *Backend) sealLocked() {
	b.sealEnd = false
	b.armed = false
	if b.active.ops == 0 && len(b.active.waiters) == 0 {
		return
	}
	b.sealed = append(b.sealed, b.active)
	b.active = newLayer(b.active.ops)
	b.signal()
}

// flusher is the goroutine that moves sealed layers into the file, and seals the
// active one when its time has come.
func (b *Backend) flusher() {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	running := false // the timer runs for the active layer
	for {
		select {
		case <-b.wake:
		case <-timer.C:
			running = false
			b.mu.Lock()
			b.sealSoonLocked()
			b.mu.Unlock()
		}
		for b.flushNext() {
		}
		b.mu.RLock()
		armed, over := b.armed, b.err != nil
		b.mu.RUnlock()
		if over {
			return
		}
		if armed && !running {
			timer.Reset(b.o.FlushInterval)
		} else if !armed {
			timer.Stop()
		}
		running = armed
	}
}

// sealSoonLocked seals the active layer now or at the end of the unit under way.
func (b *Backend) sealSoonLocked() {
	if b.inUnit {
		b.sealEnd = true
	} else {
		b.sealLocked()
	}
}

// flushNext writes the oldest sealed layers, up to the first that somebody waits
// for, and reports whether there was one. A waiter gets the state right after its
// layer, which is why later ones must not come along.
func (b *Backend) flushNext() bool {
	b.mu.RLock()
	n := 0
	for n < len(b.sealed) {
		n++
		if len(b.sealed[n-1].waiters) > 0 {
			break
		}
	}
	group := b.sealed[:n:n]
	failed := b.err != nil
	b.mu.RUnlock()
	if n == 0 || failed {
		return false
	}
	start := time.Now()
	b.fileMu.Lock()
	view, err := b.writeGroup(group)
	if err == nil {
		b.dropGroup(group, view)
	}
	b.fileMu.Unlock()
	if err != nil {
		b.fail(fmt.Errorf("flush %s: %w", b.o.Path, err))
		return false
	}
	b.told(time.Since(start))
	return true
}

// writeGroup commits layers in one transaction and opens a view of the result.
// It needs fileMu.
func (b *Backend) writeGroup(group []*layer) (*fileView, error) {
	ops := 0
	for _, l := range group {
		ops += l.ops
	}
	if ops > 0 {
		if err := b.db.Update(func(tx *bbolt.Tx) error { return writeLayers(tx, group, everything) }); err != nil {
			return nil, err
		}
		b.written = true
		if b.copy != nil {
			b.copy.follow(group)
		}
	}
	return newView(b.db)
}

// dropGroup makes view the one that readers get, in place of the layers that it
// holds, and tells who waited.
func (b *Backend) dropGroup(group []*layer, view *fileView) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sealed = append([]*layer(nil), b.sealed[len(group):]...)
	for _, l := range group {
		b.pending -= l.bytes
		l.settle(view, nil)
	}
	b.showLocked(view)
	if b.active.ops >= b.o.FlushOps {
		b.sealSoonLocked()
	} else if b.active.ops > 0 && !b.armed {
		b.armed = true // Flush sealed what the timer ran for
	}
	b.room.Broadcast()
}

// showLocked replaces the view that readers get.
func (b *Backend) showLocked(view *fileView) {
	b.size.Store(view.size)
	b.sizeInUse.Store(view.sizeInUse)
	old := b.view
	b.view = view
	if old != nil {
		old.release()
	}
}

// place says whether a write of a layer concerns a file.
type place func(bucket Bucket, key string) bool

func everything(Bucket, string) bool { return true }

// writeLayers puts layers, oldest first, into a transaction.
func writeLayers(tx *bbolt.Tx, group []*layer, concerns place) error {
	for _, l := range group {
		for name, r := range l.runs {
			if !concerns(name, "") {
				continue
			}
			in, err := tx.CreateBucketIfNotExists([]byte(name))
			if err != nil {
				return fmt.Errorf("create bucket %q: %w", name, err)
			}
			if name == "key" {
				in.FillPercent = fillPercent
			}
			if err := writeRun(in, name, r, concerns); err != nil {
				return fmt.Errorf("write bucket %q: %w", name, err)
			}
		}
	}
	return nil
}

func writeRun(in *bbolt.Bucket, name Bucket, r *run, concerns place) error {
	for c := r.cursor(""); !c.done; c.next() {
		if !concerns(name, c.cur.key) {
			continue
		}
		var err error
		if c.cur.value == nil {
			err = in.Delete(bytesOf(c.cur.key))
		} else {
			err = in.Put(bytesOf(c.cur.key), c.cur.value)
		}
		if err != nil {
			return fmt.Errorf("key %x: %w", c.cur.key, err)
		}
	}
	return nil
}

// Flush returns when everything ended so far is in the file, synced. The writer
// must not call it within a unit.
func (b *Backend) Flush() error {
	s, err := b.Snapshot()
	if err != nil {
		return err
	}
	<-s.ready
	return s.Close()
}
