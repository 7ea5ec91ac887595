package lease

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"

	"theseus/api"
	"theseus/backend"
)

// bucket is the room's own: 8 bytes of id, big endian, to the encoded record.
const bucket backend.Bucket = "lease"

// MaxTTL is the longest TTL that can be granted, in seconds.
const MaxTTL = 9_000_000_000

// Options of a Store.
type Options struct {
	// MinTTL in seconds is what a shorter TTL is raised to. It follows from the
	// election timeout of this member and should be the same on all.
	MinTTL int64
}

// Lease is one lease as it is replicated: without an expiry, which is the primary
// lessor's own affair.
type Lease struct {
	ID        int64
	TTL       int64 // granted, in seconds
	Remaining int64 // checkpointed rest in seconds; 0 means that TTL counts
}

// Store holds all leases.
type Store struct {
	b      *backend.Backend
	minTTL int64

	mu     sync.RWMutex // guards what follows; only the writer locks it for writing
	leases map[int64]*entry
	owner  map[string]int64 // attached key to its lease
}

type entry struct {
	Lease
	keys map[string]struct{} // nil until the first attachment
}

// Open reads the leases of b, which must have been written by any etcd 3.x or by
// us. It makes the bucket if it is missing.
func Open(b *backend.Backend, o Options) (*Store, error) {
	if err := b.CreateBuckets(bucket); err != nil {
		return nil, fmt.Errorf("create bucket %s: %w", bucket, err)
	}
	s := &Store{b: b, minTTL: o.MinTTL, leases: map[int64]*entry{}, owner: map[string]int64{}}
	var bad error
	err := b.Scan(bucket, nil, nil, func(k, v []byte) bool {
		l, err := decode(v)
		if err == nil && (len(k) != 8 || int64(binary.BigEndian.Uint64(k)) != l.ID) {
			err = fmt.Errorf("it holds lease %x", uint64(l.ID))
		}
		if err != nil {
			bad = fmt.Errorf("read lease record %x: %w", k, err)
			return false
		}
		l.TTL = max(l.TTL, s.minTTL)
		s.leases[l.ID] = &entry{Lease: l}
		return true
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, fmt.Errorf("restore leases: %w", err)
	}
	return s, nil
}

// Grant makes a lease and returns its TTL, which is at least MinTTL. The errors,
// in this order: api.ErrLeaseNotFound for id 0, api.ErrLeaseTTLTooLarge,
// api.ErrLeaseExist.
func (s *Store) Grant(id, ttl int64) (grantedTTL int64, err error) {
	switch {
	case id == 0:
		return 0, api.ErrLeaseNotFound
	case ttl > MaxTTL:
		return 0, api.ErrLeaseTTLTooLarge
	case s.Exists(id):
		return 0, api.ErrLeaseExist
	}
	l := Lease{ID: id, TTL: max(ttl, s.minTTL)}
	s.b.Put(bucket, recordKey(id), encode(l))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leases[id] = &entry{Lease: l}
	return l.TTL, nil
}

// Revoke removes a lease with its attachments and returns the keys that were
// attached, sorted: every member has to delete them in the same order. It fails
// with api.ErrLeaseNotFound.
func (s *Store) Revoke(id int64) (keys [][]byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.leases[id]
	if e == nil {
		return nil, api.ErrLeaseNotFound
	}
	keys = e.sortedKeys()
	for _, k := range keys {
		delete(s.owner, string(k))
	}
	delete(s.leases, id)
	s.b.Delete(bucket, recordKey(id))
	return keys, nil
}

// Attach attaches key to a lease, and detaches it from another that it hangs on.
// Id 0, and a lease that does not exist, leave the key without a lease: the
// caller has refused a put with an unknown lease, so that only a backend whose
// lease is gone can bring one here.
func (s *Store) Attach(id int64, key []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.owner[string(key)]; ok {
		if old == id {
			return
		}
		s.detach(old, key)
	}
	e := s.leases[id]
	if e == nil {
		return
	}
	if e.keys == nil {
		e.keys = make(map[string]struct{}, 1)
	}
	k := string(key)
	e.keys[k] = struct{}{}
	s.owner[k] = id
}

// Detach detaches key from whatever lease it hangs on.
func (s *Store) Detach(key []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id, ok := s.owner[string(key)]; ok {
		s.detach(id, key)
	}
}

func (s *Store) detach(id int64, key []byte) {
	delete(s.owner, string(key))
	delete(s.leases[id].keys, string(key))
}

// Checkpoint sets the remaining TTL of a lease, in seconds, and tells whether the
// lease exists. persist says whether it goes to the file too, which every member
// must decide alike, by the cluster version.
func (s *Store) Checkpoint(id, remaining int64, persist bool) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.leases[id]
	if e == nil {
		return false
	}
	e.Remaining = remaining
	if persist {
		s.b.Put(bucket, recordKey(id), encode(e.Lease))
	}
	return true
}

// LeaseOf returns the lease that key is attached to, 0 for none.
func (s *Store) LeaseOf(key []byte) int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.owner[string(key)]
}

// Lookup returns a lease and copies of the keys attached to it, sorted.
func (s *Store) Lookup(id int64) (l Lease, keys [][]byte, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.leases[id]
	if e == nil {
		return Lease{}, nil, false
	}
	return e.Lease, e.sortedKeys(), true
}

// Get returns a lease without its keys.
func (s *Store) Get(id int64) (l Lease, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.leases[id]
	if e == nil {
		return Lease{}, false
	}
	return e.Lease, true
}

// List returns all leases, in order of id.
func (s *Store) List() []Lease {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]Lease, 0, len(s.leases))
	for _, id := range slices.Sorted(maps.Keys(s.leases)) {
		all = append(all, s.leases[id].Lease)
	}
	return all
}

// Exists tells whether a lease exists.
func (s *Store) Exists(id int64) bool {
	_, ok := s.Get(id)
	return ok
}

func (e *entry) sortedKeys() [][]byte {
	keys := make([][]byte, 0, len(e.keys))
	for _, k := range slices.Sorted(maps.Keys(e.keys)) {
		keys = append(keys, []byte(k))
	}
	return keys
}

func recordKey(id int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(id)) }

// encode writes a leasepb.Lease{1: ID, 2: TTL, 3: RemainingTTL} byte for byte as
// etcd does: zero fields are left out.
func encode(l Lease) []byte {
	b := make([]byte, 0, 3*11)
	for i, v := range []int64{l.ID, l.TTL, l.Remaining} {
		if v != 0 {
			b = protowire.AppendTag(b, protowire.Number(i+1), protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(v))
		}
	}
	return b
}

func decode(b []byte) (l Lease, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return Lease{}, protowire.ParseError(n)
		}
		b = b[n:]
		var v uint64
		if typ == protowire.VarintType {
			v, n = protowire.ConsumeVarint(b)
		} else {
			num, n = 0, protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return Lease{}, protowire.ParseError(n)
		}
		b = b[n:]
		switch num {
		case 1:
			l.ID = int64(v)
		case 2:
			l.TTL = int64(v)
		case 3:
			l.Remaining = int64(v)
		}
	}
	return l, nil
}
