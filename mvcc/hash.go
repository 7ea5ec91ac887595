package mvcc

import (
	"errors"
	"hash/crc32"

	"theseus/api"
)

// Hash is the answer to HashKV.
type Hash struct {
	Hash            uint32
	CompactRevision int64 // -1: never compacted
	HashRevision    int64 // the revision that was hashed
	Revision        int64 // the store's revision when it was hashed
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// hashOfNothing is that of a bucket without records: of its name.
var hashOfNothing = crc32.Checksum([]byte(keyBucket), castagnoli)

// HashKV hashes the records up to rev (0: the current revision) so that members
// with the same data and the same compacted revision get the same, however far
// each has come with removing what is compacted. At the revision of a compaction
// that HashCompaction was asked of, it answers what that gave, also when it is older
// than the compacted revision by now, as etcd does since 3.5.5. It fails with
// api.ErrFutureRev or api.ErrCompacted. Any goroutine may call it; the writer goes
// on meanwhile.
func (s *Store) HashKV(rev int64) (Hash, error) {
	for {
		if h, ok := s.compactHashes.get(rev); ok {
			h.Revision = s.rev.Load()
			return h, nil
		}
		h := Hash{CompactRevision: s.compacted.Load(), HashRevision: rev, Revision: s.rev.Load()}
		switch {
		case rev == 0:
			h.HashRevision = h.Revision
		case rev < 0: // etcd hashes nothing, and says so
			h.Hash = hashOfNothing
			return h, nil
		case rev < h.CompactRevision:
			return h, api.ErrCompacted
		case rev > h.Revision:
			return h, api.ErrFutureRev
		}
		sum, err := s.hashRecords(h.HashRevision, h.CompactRevision, s.tree.count(&everything, h.HashRevision) == 0)
		if s.compacted.Load() == h.CompactRevision {
			h.Hash = sum
			return h, err
		}
		// Compacted meanwhile: what was read is neither the old state nor the new.
	}
}

// hashPiece is how many records are hashed in one go, so that the file's pages
// are not held for long.
const hashPiece = 10_000

// hashRecords hashes the records up to rev, of a store compacted at compacted. bare
// tells that a compaction at rev would keep nothing.
func (s *Store) hashRecords(rev, compacted int64, bare bool) (uint32, error) {
	h := hasher{
		s: s, rev: rev, compacted: compacted,
		sum: hashOfNothing,
		// Of the records up to the compacted revision those count that are kept by a
		// compaction at rev, which are those of keys that exist at rev; but if none
		// exists, etcd leaves nothing out. What a compaction at work will remove is
		// left out then too, so that its pace makes no difference.
		base: rev,
	}
	if bare {
		h.base = compacted
	}
	for from := []byte(nil); ; from = h.next {
		h.left, h.next = hashPiece, nil
		err := s.b.Scan(keyBucket, from, mainKey(rev+1), h.add)
		if err = errors.Join(err, h.err); err != nil || h.next == nil {
			return h.sum, err
		}
	}
}

type hasher struct {
	s                    *Store
	rev, compacted, base int64
	sum                  uint32
	left                 int
	next                 []byte // where to go on; nil: at the end
	err                  error
}

// add takes one record and reports whether to go on.
func (h *hasher) add(k, v []byte) bool {
	if h.left == 0 {
		h.next = append([]byte(nil), k...)
		return false
	}
	h.left--
	at, err := parseStamp(k)
	if err != nil {
		h.err = err
		return false
	}
	if at.main <= h.compacted && !h.counts(at, v) {
		return true
	}
	h.sum = crc32.Update(h.sum, castagnoli, k)
	h.sum = crc32.Update(h.sum, castagnoli, v)
	return true
}

// counts tells whether a record up to the compacted revision is hashed: it is the
// newest of its key at the base revision, and no tombstone.
func (h *hasher) counts(at stamp, value []byte) bool {
	if at.tomb() {
		return false
	}
	f, err := parse(value)
	if err != nil {
		h.err = err
		return false
	}
	e := h.s.table.get(h.s.table.tag(f.key), f.key)
	if e == nil {
		return false
	}
	newest, _, ok := e.head.Load().at(h.base)
	return ok && newest == at
}
