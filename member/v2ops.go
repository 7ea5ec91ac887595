package member

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"theseus/api"
	"theseus/version"
)

// Errors of v2 requests, in the words of etcd's v2 API.
var (
	ErrV2KeyNotFound = errors.New("Key not found")                //nolint:staticcheck // etcd's text
	ErrV2NodeExist   = errors.New("Key already exists")           //nolint:staticcheck
	ErrV2NotFile     = errors.New("Not a file")                   //nolint:staticcheck
	ErrV2NotDir      = errors.New("Not a directory")              //nolint:staticcheck
	ErrV2DirNotEmpty = errors.New("Directory not empty")          //nolint:staticcheck
	ErrV2TestFailed  = errors.New("Compare failed")               //nolint:staticcheck
	ErrV2RootOnly    = errors.New("Root is read only")            //nolint:staticcheck
	ErrV2Method      = errors.New("v2 request of unknown method") // not etcd's
)

// readOnly are the paths that no user changes.
var readOnly = []string{"/", "/0", "/1", "/2"}

// oldestExpiry is what etcd takes for the first sensible time: an earlier one, in
// practice zero, means that the node stays.
var oldestExpiry = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// find returns the node of a path, nil if there is none.
func (t *V2Tree) find(path string) *v2Node {
	n := t.root
	for _, name := range elements(path) {
		if n = n.Children[name]; n == nil {
			return nil
		}
	}
	return n
}

func elements(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// ApplyV2 carries out a v2 request of a user: PUT, POST or DELETE with their
// conditions. An error has changed nothing and is the request's answer; the index
// counts successes only. Paths below /0 belong to the cluster and are left alone.
// The cluster version matters: since 3.5 a directory cannot be updated.
func (c *Cluster) ApplyV2(r *api.LegacyRequest) error {
	cv, ok := c.Version()
	return c.v2.apply(r, ok && cv.Less(version.V3_5))
}

func (t *V2Tree) apply(r *api.LegacyRequest, updateDirs bool) error {
	p := path.Clean("/" + r.Path)
	if p == "/0" || strings.HasPrefix(p, "/0/") {
		return ErrV2RootOnly
	}
	conditional := r.PrevIndex > 0 || r.PrevValue != ""
	switch r.Method {
	case "POST":
		return t.create(join(p, fmt.Sprintf("%020d", t.index+1)), r, false)
	case "PUT":
		switch {
		case r.PrevExist != nil && !*r.PrevExist:
			return t.create(p, r, false)
		case conditional:
			return t.compareAndSwap(p, r)
		case r.PrevExist != nil:
			return t.update(p, r, updateDirs)
		}
		return t.create(p, r, true)
	case "DELETE":
		if conditional {
			return t.compareAndDelete(p, r)
		}
		return t.delete(p, r.Dir || r.Recursive, r.Recursive)
	}
	return fmt.Errorf("%w: %q", ErrV2Method, r.Method)
}

// create makes a node, and the directories above it. With replace it may take the
// place of a file.
func (t *V2Tree) create(p string, r *api.LegacyRequest, replace bool) error {
	if slices.Contains(readOnly, p) {
		return ErrV2RootOnly
	}
	if old := t.find(p); old != nil {
		if !replace {
			return ErrV2NodeExist
		}
		if old.Children != nil {
			return ErrV2NotFile
		}
	}
	names := elements(p)
	last := len(names) - 1
	if !t.passable(names[:last]) {
		return ErrV2NotDir
	}
	t.index++
	dir := t.root
	for _, name := range names[:last] {
		if dir.Children[name] == nil {
			dir.Children[name] = newDir(join(dir.Path, name), t.index)
		}
		dir = dir.Children[name]
	}
	n := newFile(p, r.Val, t.index)
	if r.Dir {
		n = newDir(p, t.index)
	}
	n.setExpiry(r.Expiration)
	dir.Children[names[last]] = n
	return nil
}

// passable reports whether what exists of a path are directories.
func (t *V2Tree) passable(names []string) bool {
	n := t.root
	for _, name := range names {
		if n = n.Children[name]; n == nil {
			return true
		}
		if n.Children == nil {
			return false
		}
	}
	return true
}

// update changes the value of a file, or the expiry of anything.
func (t *V2Tree) update(p string, r *api.LegacyRequest, updateDirs bool) error {
	if slices.Contains(readOnly, p) {
		return ErrV2RootOnly
	}
	n := t.find(p)
	if n == nil {
		return ErrV2KeyNotFound
	}
	if n.Children != nil && (r.Val != "" || !updateDirs) {
		return ErrV2NotFile
	}
	t.index++
	if n.Children == nil { // a directory keeps its index: only its expiry changes
		t.write(n, r)
	}
	n.setExpiry(r.Expiration)
	return nil
}

// write sets the value of a file; a refresh keeps it.
func (t *V2Tree) write(n *v2Node, r *api.LegacyRequest) {
	if r.Refresh == nil || !*r.Refresh {
		n.Value = r.Val
	}
	n.ModifiedIndex = t.index
}

func (t *V2Tree) compareAndSwap(p string, r *api.LegacyRequest) error {
	n, err := t.compared(p, r)
	if err != nil {
		return err
	}
	t.index++
	t.write(n, r)
	n.setExpiry(r.Expiration)
	return nil
}

func (t *V2Tree) compareAndDelete(p string, r *api.LegacyRequest) error {
	if _, err := t.compared(p, r); err != nil {
		return err
	}
	return t.delete(p, false, false)
}

// compared returns the file at p if it is as the request demands.
func (t *V2Tree) compared(p string, r *api.LegacyRequest) (*v2Node, error) {
	n := t.find(p)
	switch {
	case slices.Contains(readOnly, p):
		return nil, ErrV2RootOnly
	case n == nil:
		return nil, ErrV2KeyNotFound
	case n.Children != nil:
		return nil, ErrV2NotFile
	case r.PrevValue != "" && r.PrevValue != n.Value, r.PrevIndex != 0 && r.PrevIndex != n.ModifiedIndex:
		return nil, ErrV2TestFailed
	}
	return n, nil
}

func (t *V2Tree) delete(p string, dir, recursive bool) error {
	n := t.find(p)
	switch {
	case slices.Contains(readOnly, p):
		return ErrV2RootOnly
	case n == nil:
		return ErrV2KeyNotFound
	case n.Children != nil && !dir:
		return ErrV2NotFile
	case len(n.Children) > 0 && !recursive:
		return ErrV2DirNotEmpty
	}
	t.index++
	t.unlink(p)
	return nil
}

func (t *V2Tree) unlink(p string) {
	if parent := t.find(path.Dir(p)); parent != nil {
		delete(parent.Children, path.Base(p))
	}
}

// setExpiry takes unix nanoseconds; 0 means that the node stays.
func (n *v2Node) setExpiry(ns int64) {
	n.ExpireTime = permanent
	if at := time.Unix(0, ns).UTC(); ns != 0 && at.After(oldestExpiry) {
		n.ExpireTime = at.Format(time.RFC3339Nano)
	}
}

// Expire removes, oldest first, what has ended by now (unix nanoseconds): the SYNC
// request, by which a leader tells the time.
func (t *V2Tree) Expire(now int64) {
	type end struct {
		at   time.Time
		path string
	}
	var ended []end
	var walk func(n *v2Node)
	walk = func(n *v2Node) {
		at, err := time.Parse(time.RFC3339Nano, n.ExpireTime)
		if err == nil && at.After(oldestExpiry) && !at.After(time.Unix(0, now)) {
			ended = append(ended, end{at, n.Path})
		}
		for _, child := range n.Children {
			walk(child)
		}
	}
	walk(t.root)
	slices.SortFunc(ended, func(a, b end) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.path, b.path))
	})
	for _, e := range ended {
		if t.find(e.path) != nil && !slices.Contains(readOnly, e.path) {
			t.index++
			t.unlink(e.path)
		}
	}
}
