package mvcc

import (
	"slices"
	"sync"
)

// keptHashes is how many hashes of compactions are kept, as by etcd.
const keptHashes = 10

// compactHashes are the hashes of the last finished compactions. They are in memory
// only: after a restart there are none, as at etcd.
type compactHashes struct {
	mu    sync.Mutex
	kept  []Hash // ascending by revision
	ready *Hash  // of the compaction at work
}

// get returns the hash of the compaction at rev, if it is known.
func (c *compactHashes) get(rev int64) (Hash, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.kept {
		if h.HashRevision == rev {
			return h, true
		}
	}
	return Hash{}, false
}

// finish keeps the hash of the compaction at rev, which has ended.
func (c *compactHashes) finish(rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ready != nil && c.ready.HashRevision == rev {
		c.kept = append(c.kept, *c.ready)
		if extra := len(c.kept) - keptHashes; extra > 0 {
			c.kept = slices.Delete(c.kept, 0, extra)
		}
	}
	c.ready = nil
}

// CompactHashes returns the hashes of the last finished compactions, oldest first.
// Any goroutine may call it.
func (s *Store) CompactHashes() []Hash {
	s.compactHashes.mu.Lock()
	defer s.compactHashes.mu.Unlock()
	return slices.Clone(s.compactHashes.kept)
}

// HashCompaction hashes what the compaction at work finds, up to its revision: all
// records since the compaction before it, and of the older ones those that it keeps.
// Members that compact at the same revisions get the same, whatever was written since.
// It must be called before the compaction's first CompactStep, by the goroutine that
// calls CompactStep next; the writer need not wait. It does nothing when that is too
// late, as after a restart in the middle of a compaction.
func (s *Store) HashCompaction() error {
	rev := s.under.Load()
	if rev < 0 || s.torn.Load() == rev {
		return nil
	}
	c := &s.compactHashes
	c.mu.Lock()
	done := c.ready != nil && c.ready.HashRevision == rev
	c.mu.Unlock()
	if done {
		return nil
	}
	bare := s.tree.count(&everything, rev) == 0
	if bare { // of a tombstone at rev itself etcd says that the compaction keeps it
		err := s.b.Scan(keyBucket, mainKey(rev), mainKey(rev+1), func(k, _ []byte) bool {
			bare = bare && len(k) < tombBytes
			return bare
		})
		if err != nil {
			return err
		}
	}
	before := s.finished.Load()
	sum, err := s.hashRecords(rev, before, bare)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready = &Hash{Hash: sum, CompactRevision: before, HashRevision: rev, Revision: s.rev.Load()}
	return nil
}
