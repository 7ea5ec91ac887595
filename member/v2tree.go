package member

import (
	"encoding/json"
	"fmt"
	"slices"

	"theseus/version"
)

// permanent is the zero time as JSON has it: the node never expires.
const permanent = "0001-01-01T00:00:00Z"

// V2Tree is the v2 store: paths with values, of which this server keeps what is not
// membership (/1 and /2: users' keys, v2 auth) as it found it, and changes it only
// by the v2 requests that the log holds. It belongs to one goroutine.
type V2Tree struct {
	root  *v2Node
	index uint64 // etcd's v2 index: one up with every change
}

// v2Node is one path. Children is nil for a file and not nil for a directory.
type v2Node struct {
	Path          string
	CreatedIndex  uint64
	ModifiedIndex uint64
	ExpireTime    string
	Value         string
	Children      map[string]*v2Node
}

// v2Store is the top level of the JSON, in the small form that every etcd takes
// (interop 3.3): without WatcherHub and Stats a reader keeps its own.
type v2Store struct {
	Root           *v2Node
	CurrentIndex   uint64
	CurrentVersion int
}

// NewV2Tree returns the store of a new cluster.
func NewV2Tree() *V2Tree {
	t := &V2Tree{root: newDir("/", 0)}
	t.root.Children["1"] = newDir("/1", 0)
	return t
}

// ParseV2 reads a store's JSON as any etcd writes it. It is lenient about what it
// does not need (WatcherHub, Stats, unknown fields, times).
func ParseV2(data []byte) (*V2Tree, error) {
	var s v2Store
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("decode v2 store: %w", err)
	}
	if s.Root == nil || s.Root.Children == nil {
		return nil, fmt.Errorf("decode v2 store: it has no root directory")
	}
	prune(s.Root, "/")
	if s.Root.Children["1"] == nil {
		s.Root.Children["1"] = newDir("/1", 0)
	}
	return &V2Tree{root: s.Root, index: s.CurrentIndex}, nil
}

// prune drops children that are null, and gives each node its path and time, so
// that nothing behind needs to look for oddities.
func prune(n *v2Node, path string) {
	n.Path = path
	if n.ExpireTime == "" {
		n.ExpireTime = permanent
	}
	for name, child := range n.Children {
		if child == nil || name == "" {
			delete(n.Children, name)
			continue
		}
		prune(child, join(path, name))
	}
}

// Index is the v2 index.
func (t *V2Tree) Index() uint64 { return t.index }

// Touch counts n changes of paths that the tree does not hold itself.
func (t *V2Tree) Touch(n uint64) { t.index += n }

// HasUserContent reports whether users of the v2 API left anything: etcd 3.6 refuses
// such a directory (interop 3.5).
func (t *V2Tree) HasUserContent() bool {
	for name, n := range t.root.Children {
		switch name {
		case "0":
		case "2":
			for _, child := range n.Children {
				if len(child.Children) > 0 {
					return true
				}
			}
		default:
			if len(n.Children) > 0 {
				return true
			}
		}
	}
	return false
}

// Get returns the value of a file.
func (t *V2Tree) Get(path string) (value string, ok bool) {
	n := t.find(path)
	if n == nil || n.Children != nil {
		return "", false
	}
	return n.Value, true
}

// state is the membership that the paths below /0 tell. The caller forgets nothing
// by it: SnapshotJSON writes these paths anew from the state.
func (t *V2Tree) state() (*state, error) {
	s := &state{}
	if members := t.find("/0/members"); members != nil {
		for name, n := range members.Children {
			m, ok, err := v2Member(name, n)
			if err != nil {
				return nil, err
			}
			if ok {
				i, _ := find(s.members, m.ID)
				s.members = slices.Insert(s.members, i, m)
			}
		}
	}
	if removed := t.find("/0/removed_members"); removed != nil {
		for name := range removed.Children {
			id, err := parseID(name)
			if err != nil {
				return nil, fmt.Errorf("decode /0/removed_members/%s of the v2 store: %w", name, err)
			}
			s.removed = insert(s.removed, id)
		}
	}
	if text, ok := t.Get("/0/version"); ok {
		v, err := version.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("decode /0/version of the v2 store: %w", err)
		}
		s.version, s.hasVersion = v, true
	}
	return s, nil
}

// v2Member reads one directory below /0/members. One without raftAttributes is no
// member: etcd up to 3.4 leaves such a path behind when a member that is removed
// publishes once more.
func v2Member(name string, n *v2Node) (m Member, ok bool, err error) {
	id, err := parseID(name)
	if err != nil {
		return m, false, fmt.Errorf("decode /0/members/%s of the v2 store: %w", name, err)
	}
	raft, has := n.Children["raftAttributes"]
	if !has {
		return m, false, nil
	}
	if err := json.Unmarshal([]byte(raft.Value), &m); err != nil {
		return m, false, fmt.Errorf("decode %s of the v2 store: %w", raft.Path, err)
	}
	if attr, has := n.Children["attributes"]; has {
		var a attributes
		if err := json.Unmarshal([]byte(attr.Value), &a); err != nil {
			return m, false, fmt.Errorf("decode %s of the v2 store: %w", attr.Path, err)
		}
		m.Name, m.ClientURLs = a.Name, a.ClientURLs
	}
	m.ID = id
	return m, true, nil
}

// raftAttributes and attributes are the two files of a member.
type raftAttributes struct {
	PeerURLs  []string `json:"peerURLs"`
	IsLearner bool     `json:"isLearner,omitempty"`
}

type attributes struct {
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// ParseAttributes reads the value of a v2 request that publishes a member.
func ParseAttributes(value string) (name string, clientURLs []string, err error) {
	var a attributes
	if err := json.Unmarshal([]byte(value), &a); err != nil {
		return "", nil, fmt.Errorf("decode attributes of a member: %w", err)
	}
	return a.Name, a.ClientURLs, nil
}

// SnapshotJSON returns the v2 store as of now (interop 3.2, 3.3): membership from
// the state, everything else as it was kept.
func (c *Cluster) SnapshotJSON() []byte {
	s := c.now.Load()
	zero := newDir("/0", 0)
	members := zero.addDir("members")
	for _, m := range s.members {
		dir := members.addDir(hexID(m.ID))
		dir.addFile("raftAttributes", string(marshal(raftAttributes{m.PeerURLs, m.IsLearner})))
		if m.Started() || len(m.ClientURLs) > 0 {
			dir.addFile("attributes", string(marshal(attributes{m.Name, m.ClientURLs})))
		}
	}
	if len(s.removed) > 0 {
		removed := zero.addDir("removed_members")
		for _, id := range s.removed {
			removed.addFile(hexID(id), "")
		}
	}
	if s.hasVersion {
		zero.addFile("version", s.version.Trunc().String())
	}
	root := *c.v2.root
	root.Children = map[string]*v2Node{}
	for name, n := range c.v2.root.Children {
		root.Children[name] = n
	}
	root.Children["0"] = zero
	return marshal(v2Store{Root: &root, CurrentIndex: c.v2.index, CurrentVersion: 2})
}

func newDir(path string, index uint64) *v2Node {
	n := newFile(path, "", index)
	n.Children = map[string]*v2Node{}
	return n
}

func newFile(path, value string, index uint64) *v2Node {
	return &v2Node{Path: path, CreatedIndex: index, ModifiedIndex: index, ExpireTime: permanent, Value: value}
}

func (n *v2Node) addDir(name string) *v2Node {
	child := newDir(join(n.Path, name), n.CreatedIndex)
	n.Children[name] = child
	return child
}

func (n *v2Node) addFile(name, value string) {
	n.Children[name] = newFile(join(n.Path, name), value, n.CreatedIndex)
}

func join(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}
