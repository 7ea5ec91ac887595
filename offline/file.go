package offline

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"theseus/api"
	"theseus/backend"
)

// The buckets and keys that commands read and write themselves (docs/format/db.md).
const (
	bucketKey     backend.Bucket = "key"
	bucketMeta    backend.Bucket = "meta"
	bucketCluster backend.Bucket = "cluster"
)

var (
	keyIndex          = []byte("consistent_index")
	keyTerm           = []byte("term")
	keyConfState      = []byte("confState")
	keyStorageVersion = []byte("storageVersion")
	keyScheduled      = []byte("scheduledCompactRev")
)

// Lengths of the keys of bucket "key": of a put, and of a delete, whose last byte is a t.
const (
	revBytes       = 17
	tombstoneBytes = revBytes + 1
)

// errNoHash says that a file does not end in the checksum that `snapshot save` adds.
var errNoHash = errors.New("snapshot missing hash but --skip-hash-check=false")

// spareBytes is how much the memory map is larger than twice the file, so that no
// command outgrows it: a backend would wait for its own readers then.
const spareBytes = 64 << 20

func snapDir(dataDir string) string { return filepath.Join(dataDir, "member", "snap") }

func dbPath(dataDir string) string { return filepath.Join(snapDir(dataDir), "db") }

// walDir is where the log is: --wal-dir, or the place within the data directory.
func walDir(dataDir, dedicated string) string {
	if dedicated != "" {
		return dedicated
	}
	return filepath.Join(dataDir, "member", "wal")
}

// openDB opens an existing database. Those of the tool's commands that only look
// open it read-only, so that a snapshot keeps its checksum.
func (t *tool) openDB(path string, readOnly bool) (*backend.Backend, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() == 0 {
		return nil, &backend.DamageError{File: path, What: "the file is empty"}
	}
	wait := t.timeout
	if wait <= 0 {
		wait = math.MaxInt64 / 2 * time.Nanosecond
	}
	return backend.Open(backend.Options{
		Path: path, ReadOnly: readOnly, LockTimeout: wait,
		MapBytes: 2*info.Size() + spareBytes,
	})
}

// readDB calls look with a database that is not changed.
func (t *tool) readDB(path string, look func(*backend.Backend) error) (err error) {
	b, err := t.openDB(path, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	return look(b)
}

// hashed tells whether a file of this size ends in a checksum: an image consists of
// whole pages.
func hashed(size int64) bool { return size%512 == sha256.Size }

// checkHash compares the checksum at the end of a snapshot file with the image
// before it, which it copies to w on the way. It returns errNoHash, all copied, for a
// file without one.
func checkHash(path string, w io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if hashed(size) {
		size -= sha256.Size
	}
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(w, sum), f, size); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if size == info.Size() {
		return errNoHash
	}
	want := make([]byte, sha256.Size)
	if _, err := io.ReadFull(f, want); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if got := sum.Sum(nil); string(got) != string(want) {
		return &hashError{want: want, got: got}
	}
	return nil
}

// hashError says that a snapshot file is not what was saved.
type hashError struct{ want, got []byte }

func (e *hashError) Error() string { return fmt.Sprintf("expected sha256 %v, got %v", e.want, e.got) }

// census is what a walk over the records finds.
type census struct {
	revision int64 // of the newest record; 0 when there is none
	keys     int   // that exist
}

// count walks the records. One of no bytes is the mark that a restore with
// --bump-revision leaves: a key without a name.
func count(b *backend.Backend) (census, error) {
	var c census
	live := make(map[string]struct{})
	var bad error
	err := b.Scan(bucketKey, nil, nil, func(k, v []byte) bool {
		main, _, deleted, err := parseRev(k)
		if err != nil {
			bad = err
			return false
		}
		name, err := keyOf(v)
		if err != nil {
			bad = fmt.Errorf("record of revision %d: %w", main, err)
			return false
		}
		c.revision = main
		if deleted {
			delete(live, string(name))
		} else {
			live[string(name)] = struct{}{}
		}
		return true
	})
	c.keys = len(live)
	return c, errors.Join(err, bad)
}

// parseRev reads a key of bucket "key".
func parseRev(k []byte) (main, sub int64, deleted bool, err error) {
	deleted = len(k) == tombstoneBytes && k[revBytes] == 't'
	if len(k) != revBytes && !deleted || k[8] != '_' {
		return 0, 0, false, fmt.Errorf("%x is no revision", k)
	}
	return int64(binary.BigEndian.Uint64(k)), int64(binary.BigEndian.Uint64(k[9:])), deleted, nil
}

// revKey is the key of the first change of a revision.
func revKey(main int64) []byte {
	k := binary.BigEndian.AppendUint64(nil, uint64(main))
	return append(k, '_', 0, 0, 0, 0, 0, 0, 0, 0)
}

// keyOf returns the key in an encoded KeyValue.
func keyOf(record []byte) ([]byte, error) {
	var kv mvccpb.KeyValue
	if err := api.DecodeKV(record, &kv); err != nil {
		return nil, err
	}
	return kv.Key, nil
}

// number reads eight bytes of bucket meta; what is missing is 0.
func number(b *backend.Backend, key []byte) (uint64, error) {
	v := b.Get(bucketMeta, key)
	if v == nil {
		return 0, nil
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("meta/%s has %d bytes, want 8", key, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}
