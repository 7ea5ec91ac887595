package backup

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"theseus/internal/vfs"
	"theseus/offline"
)

// The names in an archive, after the backup's ID.
const (
	imageSuffix    = ".db"
	manifestSuffix = ".json"
	partSuffix     = ".db.part"
	unprovenSuffix = ".db.unproven"
	scratchPrefix  = ".proof-"
)

// Dir returns the directory of an archive that is written dir:/path.
func Dir(archive string) (string, error) {
	dir, ok := strings.CutPrefix(archive, "dir:")
	if !ok || dir == "" {
		return "", fmt.Errorf("archive %q: write dir: and a path, such as dir:/var/backups/etcd", archive)
	}
	return filepath.Abs(dir)
}

// List returns the backups of an archive, the oldest first. A manifest that cannot be
// read is told in the error, beside all those that can. A directory that is not there
// holds no backup.
func List(archive string) ([]Manifest, error) {
	dir, err := Dir(archive)
	if err != nil {
		return nil, err
	}
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the archive: %w", err)
	}
	var all []Manifest
	var bad []error
	for _, f := range files {
		id, ok := strings.CutSuffix(f.Name(), manifestSuffix)
		if !ok || !f.Type().IsRegular() {
			continue
		}
		m, err := load(dir, id)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		all = append(all, m)
	}
	slices.SortStableFunc(all, func(a, b Manifest) int {
		return cmp.Or(a.Taken.Compare(b.Taken), cmp.Compare(a.ID, b.ID))
	})
	return all, errors.Join(bad...)
}

// Load returns one backup. It does not look at the image.
func Load(archive, id string) (Manifest, error) {
	dir, err := Dir(archive)
	if err != nil {
		return Manifest{}, err
	}
	return load(dir, id)
}

func load(dir, id string) (Manifest, error) {
	if !plainName.MatchString(id) {
		return Manifest{}, fmt.Errorf("backup %q: that is no ID: list them with theseus backup list", id)
	}
	path := filepath.Join(dir, id+manifestSuffix)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return Manifest{}, fmt.Errorf("backup %s: there is no manifest in %s: list what there is with theseus backup list", id, dir)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("open the manifest: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, maxManifestBytes+1))
	if err != nil {
		return Manifest{}, fmt.Errorf("read the manifest: %w", err)
	}
	m, err := Decode(data)
	if err == nil && m.ID != id {
		err = fmt.Errorf("manifest is of backup %s", m.ID)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Verify proves a backup of an archive once more: the image has the size and the bytes
// of its manifest, and restored into a scratch store the same hash.
func Verify(ctx context.Context, archive, id string) (Manifest, error) {
	dir, err := Dir(archive)
	if err != nil {
		return Manifest{}, err
	}
	m, err := load(dir, id)
	if err != nil {
		return m, err
	}
	path := filepath.Join(dir, m.File)
	sum, size, err := sumOf(path)
	switch {
	case err != nil:
		return m, fmt.Errorf("read the image: %w", err)
	case size != m.Size || sum != m.SHA256:
		return m, fmt.Errorf("%s has %d bytes with sha256 %s, its manifest says %d and %s: it is damaged, use another backup", path, size, sum, m.Size, m.SHA256)
	}
	if err := room(dir, size); err != nil {
		return m, err
	}
	s, err := openScratch(ctx, dir, path)
	if err != nil {
		return m, err
	}
	defer func() { _ = s.close() }()
	h, err := s.hash(m.Compacted)
	switch {
	case err != nil:
		return m, err
	case s.revision != m.Revision || h != m.HashKV:
		return m, fmt.Errorf("%s restored has revision %d and hash %d, its manifest says %d and %d: it is damaged, use another backup", path, s.revision, h, m.Revision, m.HashKV)
	}
	return m, nil
}

// RestoreOptions say which member of a new cluster is made.
type RestoreOptions = offline.RestoreOptions

// Restore makes the data directory of one member of a new cluster from a backup. Do it
// once for each member with the same Cluster and Token.
func Restore(archive, id string, o RestoreOptions) error {
	dir, err := Dir(archive)
	if err != nil {
		return err
	}
	m, err := load(dir, id)
	if err != nil {
		return err
	}
	if err := offline.Restore(filepath.Join(dir, m.File), o); err != nil {
		return fmt.Errorf("restore %s: %w", id, err)
	}
	return nil
}

func sumOf(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	h := sha256.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// marginBytes is what has to be free beyond the copies, so that an archive on the disk
// of something else leaves that its air.
const marginBytes = 64 << 20

// freeBytes is of the file system of dir; tests set another.
var freeBytes = func(dir string) (int64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	return int64(st.Bavail) * int64(st.Bsize), err
}

// room looks whether dir has space for so many bytes.
func room(dir string, need int64) error {
	need += marginBytes
	free, err := freeBytes(dir)
	if err != nil {
		return fmt.Errorf("ask how much is free in %s: %w", dir, err)
	}
	if free < need {
		return fmt.Errorf("%w: %s has %s free and %s are needed (the image, a copy to prove it, and a margin): make room, or name another archive", ErrNoRoom, dir, sizeText(free), sizeText(need))
	}
	return nil
}

// makeArchive makes the directory, durably as far as it was missing.
func makeArchive(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err == nil {
		return nil
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the archive: %w", err)
	}
	return fs.SyncDir(filepath.Dir(dir))
}
