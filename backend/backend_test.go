package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// open opens a backend in a folder of the test and checks the file at the end.
func open(t testing.TB, o Options) *Backend {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "db")
	}
	b, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.mu.RLock()
		failed := b.err
		b.mu.RUnlock()
		if err := b.Close(); err != nil && failed == nil {
			t.Errorf("close: %v", err)
		}
		verify(t, o.Path)
	})
	return b
}

// verify checks the file with our own checker and with bbolt's.
func verify(t testing.TB, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := checkFile(f); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, PreLoadFreelist: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// model is the dumb version: buckets as maps.
type model map[Bucket]map[string]string

func (m model) clone() model {
	c := model{}
	for name, keys := range m {
		c[name] = maps.Clone(keys)
	}
	return c
}

// dump reads all of the model's buckets out of a backend.
func dump(t testing.TB, b *Backend, names []Bucket) model {
	t.Helper()
	m := model{}
	err := b.View(func(v *View) error {
		for _, name := range names {
			m[name] = map[string]string{}
			prev := ""
			err := v.Scan(name, nil, nil, func(k, val []byte) bool {
				if string(k) <= prev {
					t.Errorf("scan of %q: %x after %x", name, k, prev)
				}
				prev = string(k)
				m[name][string(k)] = string(val)
				return true
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var names = []Bucket{"key", "lease", "meta"}

// change makes one random unit in the backend and in the model.
func change(rng *rand.Rand, b *Backend, m model) {
	b.Begin()
	for range 1 + rng.IntN(8) {
		name := names[rng.IntN(len(names))]
		key := fmt.Sprintf("%03d", rng.IntN(150))
		if rng.IntN(3) == 0 {
			b.Delete(name, []byte(key))
			delete(m[name], key)
			continue
		}
		value := strings.Repeat(fmt.Sprint(rng.IntN(1000)), rng.IntN(40))
		b.Put(name, []byte(key), []byte(value))
		m[name][key] = value
	}
	b.End()
}

func emptyModel() model {
	m := model{}
	for _, name := range names {
		m[name] = map[string]string{}
	}
	return m
}

func checkReads(t *testing.T, rng *rand.Rand, b *Backend, m model) {
	t.Helper()
	if diff := cmp.Diff(m, dump(t, b, names)); diff != "" {
		t.Fatalf("scan (-model +backend):\n%s", diff)
	}
	for range 20 {
		name, key := names[rng.IntN(len(names))], fmt.Sprintf("%03d", rng.IntN(150))
		want, ok := m[name][key]
		if got := b.Get(name, []byte(key)); string(got) != want || (got != nil) != ok {
			t.Fatalf("get %s/%s = %q (nil: %v), want %q (%v)", name, key, got, got == nil, want, ok)
		}
	}
	from, to := fmt.Sprintf("%03d", rng.IntN(150)), fmt.Sprintf("%03d", rng.IntN(150))
	var got, want []string
	err := b.Scan("key", []byte(from), []byte(to), func(k, _ []byte) bool {
		got = append(got, string(k))
		return len(got) < 10
	})
	for _, k := range slices.Sorted(maps.Keys(m["key"])) {
		if k >= from && k < to && len(want) < 10 {
			want = append(want, k)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("scan [%s,%s): %v\n%s", from, to, err, diff)
	}
}

// TestModel does random units, flushes, defragmentations and restarts, and
// compares every read with maps.
func TestModel(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			o := Options{Path: filepath.Join(t.TempDir(), "db"), NoSync: true, FlushOps: 30, FlushInterval: time.Millisecond}
			b := open(t, o)
			m := emptyModel()
			for range 250 {
				change(rng, b, m)
				switch rng.IntN(40) {
				case 0:
					if err := b.Flush(); err != nil {
						t.Fatal(err)
					}
				case 1:
					if err := b.Close(); err != nil {
						t.Fatal(err)
					}
					b = open(t, o)
				case 2:
					if err := b.Defrag(context.Background(), func() { change(rng, b, m) }); err != nil {
						t.Fatal(err)
					}
				}
				if rng.IntN(4) == 0 {
					checkReads(t, rng, b, m)
				}
			}
			checkReads(t, rng, b, m)
		})
	}
}

// TestUnitsAreAtomicInTheFile copies the file at each flush, opens each copy as
// after a crash, and finds a prefix of the units, each whole.
func TestUnitsAreAtomicInTheFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	var copies []string
	o := Options{Path: path, FlushOps: 40, FlushInterval: time.Hour, NoSync: true, PendingLimitBytes: 1500, MapBytes: 1 << 16}
	o.OnFlush = func(time.Duration) { // on the flusher, between two commits
		data, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		name := filepath.Join(dir, fmt.Sprint("copy", len(copies)))
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Error(err)
		}
		copies = append(copies, name)
	}
	b := open(t, o)
	rng := rand.New(rand.NewPCG(7, 7))
	m := emptyModel()
	states := []model{m.clone()}
	for i := range 600 {
		b.Begin()
		b.Put("meta", []byte("unit"), fmt.Append(nil, i+1))
		m["meta"]["unit"] = fmt.Sprint(i + 1)
		for range rng.IntN(6) {
			key := fmt.Sprintf("%02d", rng.IntN(60))
			b.Put("key", []byte(key), fmt.Append(nil, i))
			m["key"][key] = fmt.Sprint(i)
		}
		b.End()
		states = append(states, m.clone())
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if len(copies) < 5 {
		t.Fatalf("only %d flushes", len(copies))
	}
	for _, name := range copies {
		c := open(t, Options{Path: name, NoSync: true})
		got := dump(t, c, names)
		unit := 0
		_, _ = fmt.Sscan(got["meta"]["unit"], &unit)
		if diff := cmp.Diff(states[unit], got); diff != "" {
			t.Fatalf("%s holds no prefix of the units (-want +got):\n%s", name, diff)
		}
	}
}

// TestConcurrentReaders reads while the writer, the flusher and a defragmentation
// run: each reader sees values that only grow.
func TestConcurrentReaders(t *testing.T) {
	b := open(t, Options{NoSync: true, FlushOps: 20, FlushInterval: time.Millisecond})
	key := func(i int) []byte { return fmt.Appendf(nil, "%04d", i) }
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			last := -1
			for {
				select {
				case <-stop:
					return
				default:
				}
				n := 0
				_, _ = fmt.Sscan(string(b.Get("meta", []byte("count"))), &n)
				if n < last {
					t.Errorf("count went from %d to %d", last, n)
				}
				last = n
				seen := 0
				if err := b.Scan("key", nil, nil, func(k, v []byte) bool { seen++; return true }); err != nil {
					t.Error(err)
				}
				if seen < n {
					t.Errorf("scan saw %d keys after count was %d", seen, n)
				}
				if v := b.Get("key", key(n/2)); n > 0 && v == nil {
					t.Errorf("key %d of %d is missing", n/2, n)
				}
			}
		})
	}
	for i := range 1500 {
		b.Begin()
		b.Put("key", key(i), key(i))
		b.Put("meta", []byte("count"), fmt.Append(nil, i+1))
		b.End()
		if i%500 == 250 {
			if err := b.Defrag(context.Background(), nil); err != nil {
				t.Error(err)
			}
		}
	}
	close(stop)
	readers.Wait()
}

func TestSnapshotShowsItsMoment(t *testing.T) {
	b := open(t, Options{FlushInterval: time.Hour, NoSync: true})
	put := func(v string) {
		b.Begin()
		defer b.End()
		b.Put("key", []byte("k"), []byte(v))
	}
	put("1")
	s, err := b.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	put("2")
	b.Begin() // a snapshot within a unit is the state at its end
	b.Put("key", []byte("k"), []byte("3"))
	within, err := b.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	b.Put("key", []byte("k2"), []byte("3"))
	b.End()
	put("4")
	if err := b.Defrag(context.Background(), nil); err != nil { // the old file stays readable
		t.Fatal(err)
	}
	for _, c := range []struct {
		snapshot *Snapshot
		want     map[string]string
	}{{s, map[string]string{"k": "1"}}, {within, map[string]string{"k": "3", "k2": "3"}}} {
		var image bytes.Buffer
		n, err := c.snapshot.WriteTo(&image)
		if err != nil || n != c.snapshot.Size() || int64(image.Len()) != n {
			t.Fatalf("wrote %d of %d bytes: %v", n, c.snapshot.Size(), err)
		}
		if err := c.snapshot.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, image.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		got := dump(t, open(t, Options{Path: path}), []Bucket{"key"})
		if diff := cmp.Diff(model{"key": c.want}, got); diff != "" {
			t.Errorf("image (-want +got):\n%s", diff)
		}
	}
}

func TestHash(t *testing.T) {
	skip := func(bucket Bucket, key []byte) bool { return bucket == "meta" && string(key) == "consistent_index" }
	b := open(t, Options{NoSync: true})
	if err := b.CreateBuckets("key", "meta"); err != nil {
		t.Fatal(err)
	}
	empty, err := b.Hash(skip)
	if err != nil {
		t.Fatal(err)
	}
	b.Begin()
	b.Put("meta", []byte("consistent_index"), []byte("12345678"))
	b.End()
	if again, _ := b.Hash(skip); again != empty {
		t.Errorf("a skipped key changed the hash from %x to %x", empty, again)
	}
	b.Begin()
	b.Put("key", []byte("a"), []byte("b"))
	b.End()
	if other, _ := b.Hash(skip); other == empty {
		t.Error("a key did not change the hash")
	}
	if got := crc32Of("keymeta"); got != empty {
		t.Errorf("hash of two empty buckets = %x, want %x", empty, got)
	}
}

func TestDefragGivesSpaceBack(t *testing.T) {
	b := open(t, Options{NoSync: true})
	for i := range 3000 {
		b.Begin()
		b.Put("key", fmt.Appendf(nil, "%06d", i), bytes.Repeat([]byte("x"), 1000))
		b.End()
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	b.Begin()
	for i := range 2900 {
		b.Delete("key", fmt.Appendf(nil, "%06d", i))
	}
	b.End()
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	before := b.Size()
	if b.SizeInUse() >= before {
		t.Errorf("in use %d of %d", b.SizeInUse(), before)
	}
	steps := 0
	if err := b.Defrag(context.Background(), func() { steps++ }); err != nil {
		t.Fatal(err)
	}
	if after := b.Size(); after*5 > before || steps == 0 {
		t.Errorf("defragmentation took the file from %d to %d bytes in %d steps", before, after, steps)
	}
	left, _ := filepath.Glob(b.o.Path + ".tmp.*")
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if got := dump(t, b, []Bucket{"key"}); len(got["key"]) != 100 {
		t.Errorf("%d keys after defragmentation", len(got["key"]))
	}
}

func TestDefragStopsCleanly(t *testing.T) {
	b := open(t, Options{NoSync: true})
	b.Begin()
	for i := range 5000 {
		b.Put("key", fmt.Appendf(nil, "%06d", i), bytes.Repeat([]byte("x"), 1000))
	}
	b.End()
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	why := errors.New("operator changed their mind")
	ctx, cancel := context.WithCancelCause(context.Background())
	steps := 0
	err := b.Defrag(ctx, func() {
		if steps++; steps == 2 {
			cancel(why)
		}
	})
	if !errors.Is(err, why) {
		t.Errorf("defrag = %v", err)
	}
	left, _ := filepath.Glob(b.o.Path + ".tmp.*")
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if got := dump(t, b, []Bucket{"key"}); len(got["key"]) != 5000 {
		t.Errorf("%d keys", len(got["key"]))
	}
}

// TestLeftoversAreRemoved plays a crash in the middle of a defragmentation.
func TestLeftoversAreRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path+".tmp.123", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, Options{Path: path})
	if _, err := os.Stat(path + ".tmp.123"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestBeginWaitsForRoom(t *testing.T) {
	b := open(t, Options{NoSync: true, PendingLimitBytes: 10_000, FlushInterval: time.Hour, FlushOps: 1 << 30})
	for i := range 200 { // far more than the limit: without a flush this would wait for ever
		b.Begin()
		b.Put("key", fmt.Appendf(nil, "%06d", i), bytes.Repeat([]byte("x"), 1000))
		b.End()
		b.mu.RLock()
		pending := b.pending
		b.mu.RUnlock()
		if pending > 12_000 {
			t.Fatalf("%d bytes pending", pending)
		}
	}
}

func TestFailedFlushIsFatal(t *testing.T) {
	fatal := make(chan error, 1)
	b := open(t, Options{NoSync: true, FlushInterval: time.Hour, Fatal: func(err error) { fatal <- err }})
	b.fileMu.Lock()
	b.db.MaxSize = 32 << 10 // stands for a disk that is full
	b.fileMu.Unlock()
	b.Begin()
	b.Put("key", []byte("a"), make([]byte, 1<<20))
	b.End()
	if err := b.Flush(); !errors.Is(err, bbolterrors.ErrMaxSizeReached) {
		t.Errorf("flush to a full disk: %v", err)
	}
	if err := <-fatal; err == nil || !strings.Contains(err.Error(), b.o.Path) {
		t.Errorf("Fatal was told %v", err)
	}
	b.Begin() // the process is about to end; nothing hangs
	b.End()
	if err := b.Flush(); err == nil {
		t.Error("a second flush succeeded")
	}
	if b.Get("key", []byte("a")) == nil {
		t.Error("what is pending can no longer be read")
	}
	if err := b.Close(); err == nil {
		t.Error("close hid that the last writes are lost")
	}
}

func crc32Of(s string) uint32 { return crc32.Checksum([]byte(s), crc32.MakeTable(crc32.Castagnoli)) }
