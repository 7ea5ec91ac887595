package lease

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"theseus/api"
	"theseus/backend"
)

func openBackend(t *testing.T, path string) *backend.Backend {
	t.Helper()
	b, err := backend.Open(backend.Options{Path: path, NoSync: true, MapBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// open returns a store over a new file, and a function that closes the file and
// opens it again.
func open(t *testing.T, o Options) (s *Store, b *backend.Backend, reopen func() (*Store, *backend.Backend)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	b = openBackend(t, path)
	t.Cleanup(func() { b.Close() })
	s, err := Open(b, o)
	if err != nil {
		t.Fatal(err)
	}
	return s, b, func() (*Store, *backend.Backend) {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = openBackend(t, path)
		s, err := Open(b, o)
		if err != nil {
			t.Fatal(err)
		}
		return s, b
	}
}

// unit runs fn as machine would: within one unit of the backend.
func unit(b *backend.Backend, fn func()) {
	b.Begin()
	defer b.End()
	fn()
}

func grant(t *testing.T, s *Store, b *backend.Backend, id, ttl int64) {
	t.Helper()
	unit(b, func() {
		if _, err := s.Grant(id, ttl); err != nil {
			t.Fatalf("grant %d: %v", id, err)
		}
	})
}

func texts(keys [][]byte) string { return string(bytes.Join(keys, []byte(" "))) }

func TestGrant(t *testing.T) {
	s, b, _ := open(t, Options{MinTTL: 2})
	unit(b, func() {
		for _, tt := range []struct {
			id, ttl, want int64
			err           error
		}{
			{0, 10, 0, api.ErrLeaseNotFound},
			{0, MaxTTL + 1, 0, api.ErrLeaseNotFound},
			{1, MaxTTL + 1, 0, api.ErrLeaseTTLTooLarge},
			{1, MaxTTL, MaxTTL, nil},
			{1, 10, 0, api.ErrLeaseExist},
			{1, MaxTTL + 1, 0, api.ErrLeaseTTLTooLarge},
			{2, 1, 2, nil}, {3, 0, 2, nil}, {4, -7, 2, nil}, {5, 2, 2, nil}, {6, 3, 3, nil}, {-9, 60, 60, nil},
		} {
			ttl, err := s.Grant(tt.id, tt.ttl)
			if ttl != tt.want || err != tt.err {
				t.Errorf("Grant(%d, %d) = %d, %v; want %d, %v", tt.id, tt.ttl, ttl, err, tt.want, tt.err)
			}
		}
	})
	want := []Lease{{ID: -9, TTL: 60}, {ID: 1, TTL: MaxTTL}, {ID: 2, TTL: 2}, {ID: 3, TTL: 2}, {ID: 4, TTL: 2}, {ID: 5, TTL: 2}, {ID: 6, TTL: 3}}
	if d := cmp.Diff(want, s.List()); d != "" {
		t.Error(d)
	}
}

// TestStoredBytes checks bucket "lease" byte for byte: key and record (interop 4.3, 4.8, F).
func TestStoredBytes(t *testing.T) {
	s, b, _ := open(t, Options{MinTTL: 2})
	grant(t, s, b, 9190899047449383943, 60)
	grant(t, s, b, 7, 300)
	grant(t, s, b, -1, 5)
	unit(b, func() {
		s.Checkpoint(7, 128, true)
		s.Checkpoint(-1, 3, false)
	})
	var got []string
	if err := b.Scan("lease", nil, nil, func(k, v []byte) bool { got = append(got, fmt.Sprintf("%x=%x", k, v)); return true }); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"0000000000000007=080710ac02188001",
		"7f8ca1fcf9b25407=0887a8c9cdcfbfa8c67f103c",
		"ffffffffffffffff=08ffffffffffffffffff011005",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	unit(b, func() {
		s.Checkpoint(7, 0, true)
		if _, err := s.Revoke(-1); err != nil {
			t.Error(err)
		}
	})
	if v := b.Get("lease", recordKey(7)); fmt.Sprintf("%x", v) != "080710ac02" {
		t.Errorf("after a checkpoint with 0 the record is %x", v)
	}
	if v := b.Get("lease", recordKey(-1)); v != nil {
		t.Errorf("the revoked lease has the record %x", v)
	}
}

func TestAttachments(t *testing.T) {
	s, b, _ := open(t, Options{})
	grant(t, s, b, 1, 10)
	grant(t, s, b, 2, 10)
	for _, k := range []string{"b", "a", "c", "a"} {
		s.Attach(1, []byte(k))
	}
	s.Attach(2, []byte("c")) // moves it
	s.Attach(9, []byte("x")) // no such lease
	s.Attach(2, []byte("d"))
	s.Attach(9, []byte("d")) // the key's lease has gone: it hangs on none
	s.Attach(2, []byte("e"))
	s.Attach(0, []byte("e"))
	s.Detach([]byte("never"))
	for _, tt := range []struct {
		id   int64
		want string
	}{{1, "a b"}, {2, "c"}} {
		if _, keys, ok := s.Lookup(tt.id); !ok || texts(keys) != tt.want {
			t.Errorf("lease %d has keys %q, %v; want %q", tt.id, keys, ok, tt.want)
		}
	}
	for k, want := range map[string]int64{"a": 1, "c": 2, "d": 0, "e": 0, "x": 0} {
		if got := s.LeaseOf([]byte(k)); got != want {
			t.Errorf("key %s hangs on %d, want %d", k, got, want)
		}
	}
	s.Detach([]byte("c"))
	unit(b, func() {
		if keys, err := s.Revoke(2); err != nil || len(keys) != 0 {
			t.Errorf("revoke 2 = %q, %v", keys, err)
		}
		if keys, err := s.Revoke(1); err != nil || texts(keys) != "a b" {
			t.Errorf("revoke 1 = %q, %v", keys, err)
		}
		if _, err := s.Revoke(1); err != api.ErrLeaseNotFound {
			t.Errorf("revoke again: %v", err)
		}
	})
	if s.LeaseOf([]byte("a")) != 0 || s.Exists(1) || len(s.List()) != 0 {
		t.Error("something of the revoked leases is left")
	}
	if _, _, ok := s.Lookup(1); ok {
		t.Error("a revoked lease is found")
	}
}

func TestReopen(t *testing.T) {
	s, b, reopen := open(t, Options{MinTTL: 2})
	grant(t, s, b, 1, 10)
	grant(t, s, b, 2, 400)
	grant(t, s, b, 3, 10)
	unit(b, func() {
		s.Attach(1, []byte("a"))
		s.Checkpoint(2, 100, true)
		s.Checkpoint(1, 5, false)
		if _, err := s.Revoke(3); err != nil {
			t.Error(err)
		}
		if s.Checkpoint(3, 1, true) {
			t.Error("a revoked lease took a checkpoint")
		}
		b.Put("lease", recordKey(4), []byte{8, 4, 16, 1}) // by a member with a lower minimum
	})
	s, _ = reopen()
	want := []Lease{{ID: 1, TTL: 10}, {ID: 2, TTL: 400, Remaining: 100}, {ID: 4, TTL: 2}}
	if d := cmp.Diff(want, s.List()); d != "" {
		t.Error(d)
	}
	if _, keys, _ := s.Lookup(1); len(keys) != 0 {
		t.Errorf("attachments %q came from nowhere", keys)
	}
}

func TestOpenRefusesDamage(t *testing.T) {
	for name, rec := range map[string][2]string{
		"cut off":       {"\x00\x00\x00\x00\x00\x00\x00\x01", "\x08"},
		"another lease": {"\x00\x00\x00\x00\x00\x00\x00\x01", "\x08\x02"},
		"short key":     {"\x01", "\x08\x01"},
	} {
		_, b, _ := open(t, Options{})
		unit(b, func() { b.Put("lease", []byte(rec[0]), []byte(rec[1])) })
		if _, err := Open(b, Options{}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("lease record %x", rec[0])) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestModel checks attachments against a plain map of key to lease.
func TestModel(t *testing.T) {
	s, b, _ := open(t, Options{})
	r := rand.New(rand.NewPCG(1, 2))
	model, alive := map[string]int64{}, map[int64]bool{}
	for range 5000 {
		id, key := r.Int64N(8)+1, fmt.Sprint("k", r.IntN(20))
		switch r.IntN(6) {
		case 0:
			unit(b, func() { _, _ = s.Grant(id, 5) })
			alive[id] = true
		case 1:
			var keys [][]byte
			unit(b, func() { keys, _ = s.Revoke(id) })
			var want []string
			for k, l := range model {
				if l == id {
					want = append(want, k)
					delete(model, k)
				}
			}
			slices.Sort(want)
			if texts(keys) != strings.Join(want, " ") {
				t.Fatalf("revoke %d: %q, want %q", id, keys, want)
			}
			delete(alive, id)
		case 2:
			s.Detach([]byte(key))
			delete(model, key)
		default:
			s.Attach(id, []byte(key))
			delete(model, key)
			if alive[id] {
				model[key] = id
			}
		}
		if got := s.LeaseOf([]byte(key)); got != model[key] {
			t.Fatalf("key %s hangs on %d, want %d", key, got, model[key])
		}
	}
}

func TestReadersBesideWriter(t *testing.T) {
	s, b, _ := open(t, Options{})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, l := range s.List() {
					s.Lookup(l.ID)
				}
			}
		})
	}
	for i := range int64(300) {
		grant(t, s, b, i+1, 5)
		s.Attach(i+1, []byte("k"))
		if i%3 == 0 {
			unit(b, func() { _, _ = s.Revoke(i + 1) })
		}
	}
	close(stop)
	wg.Wait()
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(Lease{ID: 7, TTL: 60, Remaining: 3}))
	f.Add(encode(Lease{ID: -1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := decode(b)
		if err != nil {
			return
		}
		if again, err := decode(encode(l)); err != nil || again != l {
			t.Errorf("%x reads as %+v, which reads again as %+v, %v", b, l, again, err)
		}
	})
}
