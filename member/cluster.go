package member

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"

	"theseus/backend"
	"theseus/version"
)

// The buckets of membership (interop 4.3).
const (
	BucketMembers backend.Bucket = "members"
	BucketRemoved backend.Bucket = "members_removed"
	BucketCluster backend.Bucket = "cluster"
)

var (
	keyVersion   = []byte("clusterVersion")
	keyDowngrade = []byte("downgrade")
	valueRemoved = []byte("removed")
)

// Options says where membership is taken from.
type Options struct {
	// V2 is the store JSON of the newest .snap, nil when there is none.
	V2 []byte
	// Rebuild takes membership from V2 and from the changes that are replayed, not
	// from the buckets: those of etcd 3.5 and older may be wrong (interop 9.8).
	Rebuild bool
}

// Cluster is who is in the cluster. One goroutine writes, inside a backend unit;
// the readers may be any goroutine.
type Cluster struct {
	b *backend.Backend
	// now is the whole state. It is replaced and never changed, so that readers
	// need no lock.
	now atomic.Pointer[state]
	// v2 holds what is not membership: the paths /1 and /2, and the v2 index.
	v2 *V2Tree
	// rebuilding says that the buckets are left alone until Rewrite.
	rebuilding bool
}

type state struct {
	members    []Member // ascending by id
	removed    []uint64 // ascending
	version    version.Version
	hasVersion bool
	downgrade  Downgrade
}

// Open reads the buckets, or V2 with Rebuild. It writes nothing.
func Open(b *backend.Backend, o Options) (*Cluster, error) {
	c := &Cluster{b: b, v2: NewV2Tree(), rebuilding: o.Rebuild}
	if o.V2 != nil {
		tree, err := ParseV2(o.V2)
		if err != nil {
			return nil, err
		}
		c.v2 = tree
	}
	stored, err := load(b)
	if err != nil {
		return nil, err
	}
	if o.Rebuild {
		rebuilt, err := c.v2.state()
		if err != nil {
			return nil, err
		}
		rebuilt.downgrade = stored.downgrade
		stored = rebuilt
	}
	c.now.Store(stored)
	return c, nil
}

// Members returns all members in ascending order of id; the caller owns the slice,
// but must not change what its members point to.
func (c *Cluster) Members() []Member { return slices.Clone(c.now.Load().members) }

// Member returns one member.
func (c *Cluster) Member(id uint64) (Member, bool) {
	s := c.now.Load()
	i, ok := find(s.members, id)
	if !ok {
		return Member{}, false
	}
	return s.members[i], true
}

// Removed reports whether the id was removed once: it can never come back.
func (c *Cluster) Removed(id uint64) bool {
	_, ok := slices.BinarySearch(c.now.Load().removed, id)
	return ok
}

// RemovedIDs returns the removed ids in ascending order.
func (c *Cluster) RemovedIDs() []uint64 { return slices.Clone(c.now.Load().removed) }

// Version returns the cluster version; ok is false as long as none is decided.
func (c *Cluster) Version() (v version.Version, ok bool) {
	s := c.now.Load()
	return s.version, s.hasVersion
}

// Downgrade returns the downgrade that was asked for.
func (c *Cluster) Downgrade() Downgrade { return c.now.Load().downgrade }

// V2 is the v2 tree; it belongs to the goroutine that writes.
func (c *Cluster) V2() *V2Tree { return c.v2 }

// SetVersion records the cluster version, as major.minor.0.
func (c *Cluster) SetVersion(v version.Version) {
	v.Patch = 0
	c.update(func(s *state) { s.version, s.hasVersion = v, true })
	c.v2.Touch(1)
	c.put(BucketCluster, keyVersion, []byte(v.String()))
}

// SetDowngrade records the downgrade that is asked for.
func (c *Cluster) SetDowngrade(d Downgrade) {
	if !d.Enabled {
		d.Target = ""
	}
	c.update(func(s *state) { s.downgrade = d })
	c.put(BucketCluster, keyDowngrade, marshal(d))
}

// HoldDowngrade notes the applied index with a downgrade that is under way.
func (c *Cluster) HoldDowngrade(index uint64) {
	d := c.Downgrade()
	d.Applied = index
	c.put(BucketCluster, keyDowngrade, marshal(d))
}

// SetAttributes records what a member has published. Those of a removed member are
// ignored (false); an unknown member is an error that must stop the machine.
func (c *Cluster) SetAttributes(id uint64, name string, clientURLs []string) (bool, error) {
	m, ok := c.Member(id)
	if !ok && c.Removed(id) {
		return false, nil
	}
	if !ok {
		return false, fmt.Errorf("attributes of member %x, which is not in the cluster and never was", id)
	}
	m.Name, m.ClientURLs = name, slices.Clone(clientURLs)
	c.v2.Touch(1)
	c.save(m)
	return true, nil
}

// Rewrite makes the buckets say what was rebuilt, and ends the rebuilding. Removed
// ids that only the buckets know are kept: nothing ever takes one back.
func (c *Cluster) Rewrite() error {
	stored, err := load(c.b)
	if err != nil {
		return err
	}
	c.rebuilding = false
	c.update(func(s *state) {
		for _, id := range stored.removed {
			if _, member := find(s.members, id); !member {
				s.removed = insert(s.removed, id)
			}
		}
	})
	s := c.now.Load()
	for _, m := range stored.members {
		if _, ok := find(s.members, m.ID); !ok {
			c.b.Delete(BucketMembers, []byte(hexID(m.ID)))
		}
	}
	for _, m := range s.members {
		c.put(BucketMembers, []byte(hexID(m.ID)), marshal(m))
	}
	for _, id := range s.removed {
		c.put(BucketRemoved, []byte(hexID(id)), valueRemoved)
	}
	if s.hasVersion {
		c.put(BucketCluster, keyVersion, []byte(s.version.String()))
	}
	return nil
}

// save adds or replaces a member.
func (c *Cluster) save(m Member) {
	c.update(func(s *state) {
		i, ok := find(s.members, m.ID)
		if !ok {
			s.members = slices.Insert(slices.Clone(s.members), i, m)
			return
		}
		s.members = slices.Clone(s.members)
		s.members[i] = m
	})
	c.put(BucketMembers, []byte(hexID(m.ID)), marshal(m))
}

// remove takes a member out for ever.
func (c *Cluster) remove(id uint64) {
	c.update(func(s *state) {
		if i, ok := find(s.members, id); ok {
			s.members = slices.Delete(slices.Clone(s.members), i, i+1)
		}
		s.removed = insert(s.removed, id)
	})
	if !c.rebuilding {
		c.b.Delete(BucketMembers, []byte(hexID(id)))
	}
	c.put(BucketRemoved, []byte(hexID(id)), valueRemoved)
}

// update replaces the state. change must not write into the slices it finds.
func (c *Cluster) update(change func(*state)) {
	next := *c.now.Load()
	change(&next)
	c.now.Store(&next)
}

func (c *Cluster) put(bucket backend.Bucket, key, value []byte) {
	if !c.rebuilding {
		c.b.Put(bucket, key, value)
	}
}

func insert(ids []uint64, id uint64) []uint64 {
	i, ok := slices.BinarySearch(ids, id)
	if ok {
		return ids
	}
	return slices.Insert(slices.Clone(ids), i, id)
}

// load reads what the buckets say.
func load(b *backend.Backend) (*state, error) {
	s := &state{}
	var bad error
	err := b.Scan(BucketMembers, nil, nil, func(k, v []byte) bool {
		var m Member
		if bad = json.Unmarshal(v, &m); bad != nil {
			bad = fmt.Errorf("decode member %q of bucket %s: %w", k, BucketMembers, bad)
			return false
		}
		s.members = append(s.members, m)
		return true
	})
	if err = first(bad, err); err != nil {
		return nil, err
	}
	slices.SortFunc(s.members, func(a, b Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	err = b.Scan(BucketRemoved, nil, nil, func(k, _ []byte) bool {
		var id uint64
		if id, bad = parseID(string(k)); bad != nil {
			bad = fmt.Errorf("decode key %q of bucket %s: %w", k, BucketRemoved, bad)
			return false
		}
		s.removed = insert(s.removed, id)
		return true
	})
	if err = first(bad, err); err != nil {
		return nil, err
	}
	return s, loadCluster(b, s)
}

func loadCluster(b *backend.Backend, s *state) error {
	if v := b.Get(BucketCluster, keyVersion); len(v) > 0 {
		parsed, err := version.Parse(string(v))
		if err != nil {
			return fmt.Errorf("decode %s/%s: %w", BucketCluster, keyVersion, err)
		}
		s.version, s.hasVersion = parsed, true
	}
	if v := b.Get(BucketCluster, keyDowngrade); len(v) > 0 {
		if err := json.Unmarshal(v, &s.downgrade); err != nil {
			return fmt.Errorf("decode %s/%s: %w", BucketCluster, keyDowngrade, err)
		}
	}
	return nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
