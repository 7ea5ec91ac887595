package vfs

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrCrashed is what every operation on a Crash returns, wrapped, once its power
// is gone.
var ErrCrashed = errors.New("power is gone")

// Crash is an FS in memory that keeps what a disk would have kept. Writes,
// truncations and preallocations become durable with Sync or Datasync of the
// file, names with SyncDir of the directory, and not before: a new file that was
// synced is still lost when its directory was not. It is stricter than the file
// systems of Linux, on purpose.
type Crash struct {
	mu      sync.Mutex
	seed    uint64
	ops     int // changing operations so far
	limit   int // the operation that fails, -1 for none
	dead    bool
	root    *inode
	journal []*nameChange // not durable yet, in order
}

// inode is a file or a directory. The fields after the mode come twice: as
// programs see them and as the disk has them.
type inode struct {
	mode    os.FileMode
	holder  *crashFile        // of the lock
	data    []byte            // file
	durable []byte            // file
	pending []change          // file: what is in data and not in durable, in order
	names   map[string]*inode // directory
	onDisk  map[string]*inode // directory
}

// change is one write (data not nil) or change of size.
type change struct {
	off  int64
	data []byte
	size int64 // new size; for a preallocation the least size
	grow bool  // preallocation: never shrinks
}

// nameChange is one atomic change of directories: a rename has two parts.
type nameChange struct{ parts []namePart }

type namePart struct {
	dir  *inode
	name string
	to   *inode // nil removes the name
}

// NewCrash returns an empty disk that holds only the directory "/". The seed
// decides what a power loss keeps of what was not synced.
func NewCrash(seed uint64) *Crash {
	return &Crash{seed: seed, limit: -1, root: newDir(0o755)}
}

func newDir(perm os.FileMode) *inode {
	return &inode{mode: os.ModeDir | perm, names: map[string]*inode{}, onDisk: map[string]*inode{}}
}

// Ops returns how many operations that change something were asked for so far,
// syncs included.
func (c *Crash) Ops() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ops
}

// FailAfter cuts the power in the middle of the changing operation that follows
// the next n ones: it fails with ErrCrashed, as everything after it, and what it
// was about to do may or may not be found by Crash.
func (c *Crash) FailAfter(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = c.ops + n
}

// step counts one changing operation. It returns an error once the power is
// gone; the operation at the limit still has to note its change as pending.
func (c *Crash) step(op, name string) error {
	if c.dead {
		return c.gone(op, name)
	}
	if c.ops == c.limit {
		c.dead = true
	}
	c.ops++
	return nil
}

func (c *Crash) gone(op, name string) error {
	return &os.PathError{Op: op, Path: name, Err: ErrCrashed}
}

// done is the result of an operation whose change has been noted.
func (c *Crash) done(op, name string) error {
	if c.dead {
		return c.gone(op, name)
	}
	return nil
}

func split(name string) []string {
	name = path.Clean("/" + name)
	if name == "/" {
		return nil
	}
	return strings.Split(name[1:], "/")
}

// lookup returns the inode of name, or an error of package os.
func (c *Crash) lookup(op, name string) (*inode, error) {
	if c.dead {
		return nil, c.gone(op, name)
	}
	n := c.root
	for _, part := range split(name) {
		if n.names == nil {
			return nil, &os.PathError{Op: op, Path: name, Err: errors.New("not a directory")}
		}
		next, ok := n.names[part]
		if !ok {
			return nil, &os.PathError{Op: op, Path: name, Err: os.ErrNotExist}
		}
		n = next
	}
	return n, nil
}

// parent returns the directory of name and its last part.
func (c *Crash) parent(op, name string) (*inode, string, error) {
	parts := split(name)
	if len(parts) == 0 {
		return nil, "", &os.PathError{Op: op, Path: name, Err: os.ErrInvalid}
	}
	dir, err := c.lookup(op, "/"+strings.Join(parts[:len(parts)-1], "/"))
	if err != nil {
		return nil, "", err
	}
	if dir.names == nil {
		return nil, "", &os.PathError{Op: op, Path: name, Err: errors.New("not a directory")}
	}
	return dir, parts[len(parts)-1], nil
}

// set changes names now and notes the change for SyncDir.
func (c *Crash) set(parts ...namePart) {
	for _, p := range parts {
		if p.to == nil {
			delete(p.dir.names, p.name)
		} else {
			p.dir.names[p.name] = p.to
		}
	}
	c.journal = append(c.journal, &nameChange{parts: parts})
}

func (n *nameChange) touches(dir *inode) bool {
	return slices.ContainsFunc(n.parts, func(p namePart) bool { return p.dir == dir })
}

// commit writes the change to the disk.
func (n *nameChange) commit() {
	for _, p := range n.parts {
		if p.to == nil {
			delete(p.dir.onDisk, p.name)
		} else {
			p.dir.onDisk[p.name] = p.to
		}
	}
}

// OpenFile implements FS.
func (c *Crash) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.lookup("open", name)
	switch {
	case err == nil && flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrExist}
	case errors.Is(err, os.ErrNotExist) && flag&os.O_CREATE != 0:
		if n, err = c.create(name, perm); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case n.names != nil && flag&(os.O_WRONLY|os.O_RDWR) != 0:
		return nil, &os.PathError{Op: "open", Path: name, Err: errors.New("is a directory")}
	}
	if flag&os.O_TRUNC != 0 && len(n.data) > 0 {
		if err := c.step("open", name); err != nil {
			return nil, err
		}
		n.change(change{size: 0})
		if err := c.done("open", name); err != nil {
			return nil, err
		}
	}
	return &crashFile{fs: c, node: n, name: name, flag: flag}, nil
}

func (c *Crash) create(name string, perm os.FileMode) (*inode, error) {
	dir, base, err := c.parent("open", name)
	if err != nil {
		return nil, err
	}
	if err := c.step("open", name); err != nil {
		return nil, err
	}
	n := &inode{mode: perm}
	c.set(namePart{dir, base, n})
	return n, c.done("open", name)
}

// Rename implements FS.
func (c *Crash) Rename(oldname, newname string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	from, oldbase, err := c.parent("rename", oldname)
	if err != nil {
		return err
	}
	to, newbase, err := c.parent("rename", newname)
	if err != nil {
		return err
	}
	n, ok := from.names[oldbase]
	if !ok {
		return &os.PathError{Op: "rename", Path: oldname, Err: os.ErrNotExist}
	}
	if old := to.names[newbase]; old != nil && old.names != nil && (n.names == nil || len(old.names) > 0) {
		return &os.PathError{Op: "rename", Path: newname, Err: os.ErrExist}
	}
	if err := c.step("rename", newname); err != nil {
		return err
	}
	c.set(namePart{from, oldbase, nil}, namePart{to, newbase, n})
	return c.done("rename", newname)
}

// Remove implements FS.
func (c *Crash) Remove(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.lookup("remove", name)
	if err != nil {
		return err
	}
	if len(n.names) > 0 {
		return &os.PathError{Op: "remove", Path: name, Err: errors.New("directory not empty")}
	}
	return c.unlink("remove", name)
}

// RemoveAll implements FS. The whole tree goes in one change.
func (c *Crash) RemoveAll(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.lookup("removeall", name); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	return c.unlink("removeall", name)
}

func (c *Crash) unlink(op, name string) error {
	dir, base, err := c.parent(op, name)
	if err != nil {
		return err
	}
	if err := c.step(op, name); err != nil {
		return err
	}
	c.set(namePart{dir, base, nil})
	return c.done(op, name)
}

// MkdirAll implements FS.
func (c *Crash) MkdirAll(name string, perm os.FileMode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return c.gone("mkdir", name)
	}
	n := c.root
	for _, part := range split(name) {
		next, ok := n.names[part]
		if ok && next.names == nil {
			return &os.PathError{Op: "mkdir", Path: name, Err: errors.New("not a directory")}
		}
		if !ok {
			if err := c.step("mkdir", name); err != nil {
				return err
			}
			next = newDir(perm)
			c.set(namePart{n, part, next})
			if err := c.done("mkdir", name); err != nil {
				return err
			}
		}
		n = next
	}
	return nil
}

// ReadDir implements FS.
func (c *Crash) ReadDir(name string) ([]os.DirEntry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.lookup("readdir", name)
	if err != nil {
		return nil, err
	}
	if n.names == nil {
		return nil, &os.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	var out []os.DirEntry
	for _, base := range slices.Sorted(maps.Keys(n.names)) {
		out = append(out, n.names[base].info(base))
	}
	return out, nil
}

// Stat implements FS.
func (c *Crash) Stat(name string) (os.FileInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.lookup("stat", name)
	if err != nil {
		return nil, err
	}
	return n.info(path.Base(name)), nil
}

// SyncDir implements FS.
func (c *Crash) SyncDir(dir string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.lookup("syncdir", dir)
	if err != nil {
		return err
	}
	if err := c.step("syncdir", dir); err != nil {
		return err
	}
	if err := c.done("syncdir", dir); err != nil {
		return err
	}
	var rest []*nameChange
	for _, ch := range c.journal {
		if ch.touches(n) {
			ch.commit()
		} else {
			rest = append(rest, ch)
		}
	}
	c.journal = rest
	return nil
}

// Lock implements FS.
func (c *Crash) Lock(f File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	cf, ok := f.(*crashFile)
	if !ok || cf.fs != c {
		return fmt.Errorf("lock %s: not opened through this file system", f.Name())
	}
	if c.dead {
		return c.gone("lock", f.Name())
	}
	if h := cf.node.holder; h != nil && h != cf {
		return fmt.Errorf("lock %s: %w", f.Name(), ErrLocked)
	}
	cf.node.holder = cf
	return nil
}

// crashInfo is the FileInfo and the DirEntry of an inode.
type crashInfo struct {
	name string
	size int64
	mode os.FileMode
}

func (n *inode) info(name string) *crashInfo {
	return &crashInfo{name: name, size: int64(len(n.data)), mode: n.mode}
}

func (i *crashInfo) Name() string               { return i.name }
func (i *crashInfo) Size() int64                { return i.size }
func (i *crashInfo) Mode() os.FileMode          { return i.mode }
func (i *crashInfo) Type() os.FileMode          { return i.mode.Type() }
func (i *crashInfo) ModTime() time.Time         { return time.Time{} }
func (i *crashInfo) IsDir() bool                { return i.mode.IsDir() }
func (i *crashInfo) Sys() any                   { return nil }
func (i *crashInfo) Info() (os.FileInfo, error) { return i, nil }

// change applies ch to what programs see and notes it as not yet durable.
func (n *inode) change(ch change) {
	n.data = ch.apply(n.data)
	n.pending = append(n.pending, ch)
}

func (ch change) apply(b []byte) []byte {
	if ch.data != nil {
		b = resize(b, max(int64(len(b)), ch.off+int64(len(ch.data))))
		copy(b[ch.off:], ch.data)
		return b
	}
	if ch.grow && ch.size < int64(len(b)) {
		return b
	}
	return resize(b, ch.size)
}

// resize cuts b or extends it with zeroes.
func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size]
	}
	old := len(b)
	b = slices.Grow(b, int(size)-old)[:size]
	clear(b[old:])
	return b
}

func (n *inode) sync() {
	for _, ch := range n.pending {
		n.durable = ch.apply(n.durable)
	}
	n.pending = nil
}

// crashFile is an open file of a Crash.
type crashFile struct {
	fs     *Crash
	node   *inode
	name   string
	flag   int
	pos    int64
	closed bool
}

func (f *crashFile) Name() string { return f.name }

// usable checks the handle; the caller holds the lock.
func (f *crashFile) usable(op string, write bool) error {
	switch {
	case f.fs.dead:
		return f.fs.gone(op, f.name)
	case f.closed:
		return &os.PathError{Op: op, Path: f.name, Err: os.ErrClosed}
	case write && f.flag&(os.O_WRONLY|os.O_RDWR) == 0, !write && f.flag&os.O_WRONLY != 0:
		return &os.PathError{Op: op, Path: f.name, Err: os.ErrPermission}
	}
	return nil
}

func (f *crashFile) Read(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	n, err := f.readAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 {
		return n, nil
	}
	return n, err
}

func (f *crashFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.readAt(p, off)
}

func (f *crashFile) readAt(p []byte, off int64) (int, error) {
	if err := f.usable("read", false); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *crashFile) Write(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.flag&os.O_APPEND != 0 {
		f.pos = int64(len(f.node.data))
	}
	n, err := f.writeAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *crashFile) WriteAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.writeAt(p, off)
}

func (f *crashFile) writeAt(p []byte, off int64) (int, error) {
	if err := f.usable("write", true); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := f.apply("write", change{off: off, data: slices.Clone(p)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// apply makes one counted change of the file.
func (f *crashFile) apply(op string, ch change) error {
	if err := f.fs.step(op, f.name); err != nil {
		return err
	}
	f.node.change(ch)
	return f.fs.done(op, f.name)
}

func (f *crashFile) Seek(offset int64, whence int) (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		offset += int64(len(f.node.data))
	}
	if offset < 0 {
		return 0, &os.PathError{Op: "seek", Path: f.name, Err: os.ErrInvalid}
	}
	f.pos = offset
	return offset, nil
}

func (f *crashFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return &os.PathError{Op: "sync", Path: f.name, Err: os.ErrClosed}
	}
	if err := f.fs.step("sync", f.name); err != nil {
		return err
	}
	if err := f.fs.done("sync", f.name); err != nil {
		return err
	}
	f.node.sync()
	return nil
}

func (f *crashFile) Datasync() error { return f.Sync() }

func (f *crashFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.usable("truncate", true); err != nil {
		return err
	}
	return f.apply("truncate", change{size: size})
}

func (f *crashFile) Preallocate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.usable("preallocate", true); err != nil {
		return err
	}
	return f.apply("preallocate", change{size: size, grow: true})
}

func (f *crashFile) Stat() (os.FileInfo, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return nil, &os.PathError{Op: "stat", Path: f.name, Err: os.ErrClosed}
	}
	return f.node.info(path.Base(f.name)), nil
}

func (f *crashFile) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return &os.PathError{Op: "close", Path: f.name, Err: os.ErrClosed}
	}
	f.closed = true
	if f.node.holder == f {
		f.node.holder = nil
	}
	return nil
}
