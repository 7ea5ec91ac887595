package snap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"theseus/internal/vfs"
)

// ErrNoSnapshot is returned, wrapped, by LoadNewest when there is no snapshot
// that can be used. If there were candidates and every one is damaged, the error
// wraps the *DamageError of the newest as well.
var ErrNoSnapshot = errors.New("no snapshot file")

// ErrTooLarge is returned, wrapped, by ReadMessage for a message over its limit.
var ErrTooLarge = errors.New("message is too large")

// DamageError says that a snapshot file is not what a server wrote.
type DamageError struct {
	File string // path
	What string // is wrong
	Do   string // about it
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("snapshot %s: %s; %s", e.File, e.What, e.Do)
}

const (
	suffix   = ".snap"
	dbSuffix = ".snap.db"
	tmp      = "tmp" // prefix of files that are being written
)

// ID names a snapshot.
type ID struct{ Term, Index uint64 }

func (id ID) name() string { return fmt.Sprintf("%016x-%016x%s", id.Term, id.Index, suffix) }

// parseName is the inverse of ID.name.
func parseName(name string) (ID, bool) {
	base, ok := strings.CutSuffix(name, suffix)
	if !ok || len(base) != 33 || base[16] != '-' {
		return ID{}, false
	}
	term, err1 := strconv.ParseUint(base[:16], 16, 64)
	index, err2 := strconv.ParseUint(base[17:], 16, 64)
	return ID{term, index}, err1 == nil && err2 == nil
}

func dbName(index uint64) string { return fmt.Sprintf("%016x%s", index, dbSuffix) }

func parseDBName(name string) (index uint64, ok bool) {
	base, ok := strings.CutSuffix(name, dbSuffix)
	if !ok || len(base) != 16 {
		return 0, false
	}
	index, err := strconv.ParseUint(base, 16, 64)
	return index, err == nil
}

// Dir is the snap folder of a member.
type Dir struct {
	// OnSync and OnDBSync are told how long the sync of a .snap and of a .snap.db
	// took. Set them before the first call.
	OnSync, OnDBSync func(time.Duration)

	fs    vfs.FS
	dir   string
	count atomic.Uint64 // of temporary files, to tell them apart
}

// Open returns the snap folder dir, which it makes (0700) if need be.
func Open(fs vfs.FS, dir string) (*Dir, error) {
	if _, err := fs.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := fs.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make snapshot folder: %w", err)
		}
		if err := fs.SyncDir(filepath.Dir(dir)); err != nil {
			return nil, fmt.Errorf("make snapshot folder %s: %w", dir, err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("open snapshot folder: %w", err)
	}
	return &Dir{fs: fs, dir: dir}, nil
}

// Path returns the folder.
func (d *Dir) Path() string { return d.dir }

func (d *Dir) path(name string) string { return filepath.Join(d.dir, name) }

// Save writes the .snap file of s, which replaces one of the same term and
// index; an empty snapshot is not written.
func (d *Dir) Save(s raftpb.Snapshot) error {
	if s.Metadata.Index == 0 {
		return nil
	}
	b, err := Marshal(s)
	if err != nil {
		return err
	}
	id := ID{Term: s.Metadata.Term, Index: s.Metadata.Index}
	_, err = d.write(id.name(), d.OnSync, func(f vfs.File) (int64, error) {
		n, err := f.Write(b)
		return int64(n), err
	})
	if err != nil {
		return fmt.Errorf("save snapshot %s: %w", id.name(), err)
	}
	return nil
}

// write makes a file that has its name only when its content is durable.
func (d *Dir) write(name string, onSync func(time.Duration), fill func(vfs.File) (int64, error)) (n int64, err error) {
	f, err := d.create(name)
	if err != nil {
		return 0, err
	}
	if n, err = fill(f); err == nil {
		start := time.Now()
		if err = f.Sync(); err == nil && onSync != nil {
			onSync(time.Since(start))
		}
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = d.fs.Rename(f.Name(), d.path(name))
	}
	if err != nil {
		d.fs.Remove(f.Name()) // a best effort, Clean does it otherwise
		return n, err
	}
	return n, d.fs.SyncDir(d.dir)
}

// create makes a temporary file that no other call writes to.
func (d *Dir) create(name string) (vfs.File, error) {
	for {
		path := d.path(fmt.Sprintf("%s%d-%s", tmp, d.count.Add(1), strings.ReplaceAll(name, ".", "-")))
		f, err := d.fs.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if !errors.Is(err, os.ErrExist) {
			return f, err
		}
	}
}

// names returns the names in the folder, sorted.
func (d *Dir) names() ([]string, error) {
	entries, err := d.fs.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// List returns the snapshots whose .snap file is there, newest first: the
// highest term, then the highest index. They may be damaged.
func (d *Dir) List() ([]ID, error) {
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	var ids []ID
	for _, name := range slices.Backward(names) {
		if id, ok := parseName(name); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// Load reads one .snap file. Damage is a *DamageError, an absent file wraps
// os.ErrNotExist.
func (d *Dir) Load(id ID) (*raftpb.Snapshot, error) {
	path := d.path(id.name())
	b, err := vfs.ReadFile(d.fs, path)
	if err != nil {
		return nil, fmt.Errorf("load snapshot: %w", err)
	}
	s, err := Unmarshal(b)
	if err == nil && (s.Metadata.Term != id.Term || s.Metadata.Index != id.Index) {
		err = fmt.Errorf("it is of term %d and index %d, unlike its name", s.Metadata.Term, s.Metadata.Index)
	}
	if err != nil {
		return nil, &DamageError{File: path, What: err.Error(),
			Do: "nothing was changed: an older snapshot does if the write-ahead log still has the entries after it"}
	}
	return s, nil
}

// LoadNewest reads the newest .snap among valid. A damaged one is passed over
// for the next older, and renamed to .broken once an older one has proved good.
// When none can be had, the error wraps ErrNoSnapshot and nothing has changed.
func (d *Dir) LoadNewest(valid []ID) (*raftpb.Snapshot, error) {
	ids, err := d.List()
	if err != nil {
		return nil, err
	}
	var damaged []*DamageError
	for _, id := range ids {
		if !slices.Contains(valid, id) {
			continue
		}
		s, err := d.Load(id)
		var damage *DamageError
		switch {
		case errors.As(err, &damage):
			damaged = append(damaged, damage)
		case err != nil:
			return nil, err
		default:
			return s, d.setAside(damaged)
		}
	}
	if len(damaged) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrNoSnapshot, damaged[0])
	}
	return nil, fmt.Errorf("%w in %s", ErrNoSnapshot, d.dir)
}

// setAside renames damaged files, so that they are not taken for snapshots again.
func (d *Dir) setAside(damaged []*DamageError) error {
	for _, e := range damaged {
		if err := d.fs.Rename(e.File, e.File+".broken"); err != nil {
			return fmt.Errorf("set damaged snapshot aside: %w", err)
		}
	}
	if len(damaged) == 0 {
		return nil
	}
	return d.fs.SyncDir(d.dir)
}

// Purge removes the oldest .snap and .snap.db files while more than keep of a
// kind remain, and returns their names. keep ≤ 0 removes nothing.
func (d *Dir) Purge(keep int) (removed []string, err error) {
	if keep <= 0 {
		return nil, nil
	}
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	var snaps, dbs []string
	for _, name := range names {
		if _, ok := parseName(name); ok {
			snaps = append(snaps, name)
		} else if _, ok := parseDBName(name); ok {
			dbs = append(dbs, name)
		}
	}
	old := slices.Concat(snaps[:max(0, len(snaps)-keep)], dbs[:max(0, len(dbs)-keep)])
	return d.remove(old)
}

// Clean removes what an interrupted run left: tmp* and db.tmp*. Nothing may be
// writing to the folder.
func (d *Dir) Clean() error {
	names, err := d.names()
	if err != nil {
		return err
	}
	_, err = d.remove(slices.DeleteFunc(names, func(name string) bool {
		return !strings.HasPrefix(name, tmp) && !strings.HasPrefix(name, "db.tmp")
	}))
	return err
}

// remove removes files of the folder and returns which it has removed.
func (d *Dir) remove(names []string) (removed []string, err error) {
	for _, name := range names {
		if err := d.fs.Remove(d.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return removed, fmt.Errorf("remove old snapshot: %w", err)
		}
		removed = append(removed, name)
	}
	if len(removed) == 0 {
		return nil, nil
	}
	return removed, d.fs.SyncDir(d.dir)
}
