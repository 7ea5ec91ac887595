package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"theseus/backend"
	"theseus/mvcc"
	"theseus/offline"
)

// spareBytes is how much the scratch store's memory map is larger than twice the file.
const spareBytes = 64 << 20

// scratch is a store that was restored from an image, as a member would be.
type scratch struct {
	dir                 string
	b                   *backend.Backend
	kv                  *mvcc.Store
	revision, compacted int64
	versions            Versions // what the image says: cluster and storage
}

// openScratch restores an image within dir and opens the result. close removes it.
func openScratch(ctx context.Context, dir, image string) (_ *scratch, err error) {
	if err := offline.CheckSnapshot(image); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(dir, scratchPrefix)
	if err != nil {
		return nil, fmt.Errorf("make a scratch directory: %w", err)
	}
	s := &scratch{dir: work}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	const peer = "http://127.0.0.1:2380" // nobody listens: the member is never started
	data := filepath.Join(work, "data")
	if err := offline.Restore(image, offline.RestoreOptions{DataDir: data, Name: "proof", Cluster: "proof=" + peer, PeerURLs: peer}); err != nil {
		return nil, fmt.Errorf("restore the image: %w", err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	db := filepath.Join(data, "member", "snap", "db")
	info, err := os.Stat(db)
	if err != nil {
		return nil, fmt.Errorf("open the restored store: %w", err)
	}
	if s.b, err = backend.Open(backend.Options{Path: db, MapBytes: 2*info.Size() + spareBytes, NoSync: true}); err != nil {
		return nil, fmt.Errorf("open the restored store: %w", err)
	}
	if s.kv, err = mvcc.Open(s.b, mvcc.Options{ValueBudgetBytes: -1}); err != nil {
		return nil, fmt.Errorf("open the restored store: %w", err)
	}
	s.revision, s.compacted = s.kv.Revision()
	s.versions.Cluster = string(s.b.Get("cluster", []byte("clusterVersion")))
	s.versions.Storage = string(s.b.Get("meta", []byte("storageVersion")))
	return s, nil
}

// hash is that of all keys at the image's revision, as a member has it that is
// compacted up to the given revision. It only goes forward.
func (s *scratch) hash(compacted int64) (uint32, error) {
	if compacted > s.compacted && compacted > 0 {
		s.b.Begin()
		err := s.kv.Compact(compacted)
		s.b.End()
		if err != nil {
			return 0, fmt.Errorf("compact the restored store to %d, as the members are: %w", compacted, err)
		}
		s.compacted = compacted // the records need not go: the hash leaves them out
	}
	h, err := s.kv.HashKV(s.revision)
	if err != nil {
		return 0, fmt.Errorf("hash the restored store: %w", err)
	}
	return h.Hash, nil
}

// close removes the scratch directory.
func (s *scratch) close() error {
	var err error
	if s.b != nil {
		err = s.b.Close()
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
