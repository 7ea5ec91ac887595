package backend

import (
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"
)

// Snapshot is a consistent image of the file.
type Snapshot struct {
	ready chan struct{} // closed once view or err is set
	view  *fileView
	err   error
}

// Snapshot returns an image of the file as of the units ended so far, or, if one
// is open, as of its end. It does not wait for the flush that this may need: the
// methods of the snapshot do. Any goroutine may call it.
func (b *Backend) Snapshot() (*Snapshot, error) {
	s := &Snapshot{ready: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return nil, b.err
	}
	if b.active.ops == 0 && !b.inUnit {
		return s, b.joinLocked(s)
	}
	b.active.waiters = append(b.active.waiters, s)
	b.sealSoonLocked()
	return s, nil
}

// joinLocked gives s the state of the newest sealed layer, or that of the file if
// there is none: nothing is in the active layer.
func (b *Backend) joinLocked(s *Snapshot) error {
	if n := len(b.sealed); n > 0 {
		b.sealed[n-1].waiters = append(b.sealed[n-1].waiters, s)
		return nil
	}
	if b.view == nil {
		return ErrClosed
	}
	s.view = b.view.acquire()
	close(s.ready)
	return nil
}

// Size returns the length of the image in bytes, after the flush that it needs;
// 0 if that failed, which WriteTo then says.
func (s *Snapshot) Size() int64 {
	<-s.ready
	if s.view == nil {
		return 0
	}
	return s.view.size
}

// WriteTo writes the image, Size bytes. Both meta pages describe the same state.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	<-s.ready
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.view.tx.WriteTo(w)
	if err != nil {
		return n, fmt.Errorf("write backend image: %w", err)
	}
	return n, nil
}

// Close releases the image and returns the error of the flush that it needed. It
// must be called once.
func (s *Snapshot) Close() error {
	<-s.ready
	if s.view != nil {
		s.view.release()
	}
	return s.err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Hash returns the CRC-32C over all buckets in name order: each name, then its
// keys and values in order, without those that skip names. The caller knows what
// etcd leaves out (meta's consistent_index, term and storageVersion).
func (b *Backend) Hash(skip func(bucket Bucket, key []byte) bool) (uint32, error) {
	s, err := b.Snapshot()
	if err != nil {
		return 0, err
	}
	<-s.ready
	if s.err != nil {
		return 0, s.err
	}
	defer s.view.release()
	sum := uint32(0)
	for _, name := range slices.Sorted(maps.Keys(s.view.buckets)) {
		sum = crc32.Update(sum, castagnoli, []byte(name))
		c := s.view.buckets[name].Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if !skip(name, k) {
				sum = crc32.Update(sum, castagnoli, k)
				sum = crc32.Update(sum, castagnoli, v)
			}
		}
	}
	return sum, nil
}
