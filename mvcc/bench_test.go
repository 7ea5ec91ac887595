package mvcc

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"theseus/backend"
)

// filled is a store of n keys of 256 bytes, written in random order.
func filled(b *testing.B, n int) *fixture {
	return filledWith(b, n, backend.Options{NoSync: true})
}

func filledWith(b *testing.B, n int, o backend.Options) *fixture {
	b.Helper()
	f := &fixture{path: b.TempDir() + "/db"}
	o.Path = f.path
	var err error
	if f.b, err = backend.Open(o); err != nil {
		b.Fatal(err)
	}
	if f.s, err = Open(f.b, Options{}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.b.Close() })
	order := rand.New(rand.NewPCG(1, 2)).Perm(n)
	for len(order) > 0 {
		some := order[:min(1000, len(order))]
		order = order[len(some):]
		f.unit(func(tx *Txn) {
			for _, i := range some {
				tx.Put(benchKey(i), make([]byte, 256), 0)
			}
		})
	}
	if err := f.b.Flush(); err != nil {
		b.Fatal(err)
	}
	return f
}

func benchKey(i int) []byte { return fmt.Appendf(nil, "/registry/pods/key%08d", i) }

func BenchmarkPut(b *testing.B) {
	f := filled(b, 100_000)
	keys := make([][]byte, 1000)
	for i := range keys {
		keys[i] = benchKey(i * 97)
	}
	value := make([]byte, 256)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		f.unit(func(tx *Txn) { tx.Put(keys[i%1000], value, 0) })
		i++
	}
}

// BenchmarkPutNoFlush is a put without its share of the flush behind it.
func BenchmarkPutNoFlush(b *testing.B) {
	f := filledWith(b, 100_000, backend.Options{NoSync: true, FlushOps: 1 << 30, FlushInterval: 1 << 40, PendingLimitBytes: 1 << 40})
	keys := make([][]byte, 1000)
	for i := range keys {
		keys[i] = benchKey(i * 97)
	}
	value := make([]byte, 256)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		f.unit(func(tx *Txn) { tx.Put(keys[i%1000], value, 0) })
		i++
	}
}

// BenchmarkPutNew puts keys that do not exist, in random places.
func BenchmarkPutNew(b *testing.B) {
	f := filled(b, 100_000)
	value := make([]byte, 256)
	key := make([]byte, 0, 64)
	rng := rand.New(rand.NewPCG(3, 4))
	b.ReportAllocs()
	for b.Loop() {
		key = fmt.Appendf(key[:0], "/registry/pods/key%016x", rng.Uint64())
		f.unit(func(tx *Txn) { tx.Put(key, value, 0) })
	}
}

// BenchmarkPutBesideReaders has a reader of pages at work.
func BenchmarkPutBesideReaders(b *testing.B) {
	f := filled(b, 100_000)
	var stop atomic.Bool
	var reads atomic.Int64
	var reader sync.WaitGroup
	reader.Go(func() {
		for !stop.Load() {
			if _, err := f.s.Range(RangeOptions{Key: benchKey(0), End: []byte{0}, Limit: 500}); err != nil {
				b.Error(err)
			}
			reads.Add(1)
		}
	})
	value := make([]byte, 256)
	key := make([]byte, 0, 64)
	rng := rand.New(rand.NewPCG(3, 4))
	b.ReportAllocs()
	for b.Loop() {
		key = fmt.Appendf(key[:0], "/registry/pods/key%08d%02d", rng.IntN(100_000), rng.IntN(2))
		f.unit(func(tx *Txn) { tx.Put(key, value, 0) })
	}
	stop.Store(true)
	reader.Wait()
	b.ReportMetric(float64(reads.Load())/float64(b.N), "pages/put")
}

func BenchmarkGet(b *testing.B) {
	f := filled(b, 100_000)
	keys := make([][]byte, 10_000)
	for i := range keys {
		keys[i] = benchKey(i * 9)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if r, _ := f.s.Range(RangeOptions{Key: keys[i%10_000]}); r.Count != 1 {
			b.Fatal(r)
		}
		i++
	}
}

func BenchmarkList10k(b *testing.B) {
	benchRange(b, RangeOptions{Key: benchKey(10_000), End: benchKey(20_000)}, 10_000, 0)
}
func BenchmarkPage500(b *testing.B) {
	benchRange(b, RangeOptions{Key: benchKey(0), End: []byte{0}, Limit: 500}, 500, 0)
}

// BenchmarkPage500Old reads a page at a revision 1000 puts ago, as a client that
// lists page by page does.
func BenchmarkPage500Old(b *testing.B) {
	benchRange(b, RangeOptions{Key: benchKey(0), End: []byte{0}, Limit: 500}, 500, 1000)
}
func BenchmarkCount(b *testing.B) {
	benchRange(b, RangeOptions{Key: benchKey(0), End: []byte{0}, CountOnly: true}, 0, 0)
}

func benchRange(b *testing.B, o RangeOptions, want int, puts int) {
	f := filled(b, 100_000)
	o.Rev, _ = f.s.Revision()
	for i := range puts {
		f.unit(func(tx *Txn) { tx.Put(benchKey(i*89), nil, 0) })
	}
	b.ReportAllocs()
	for b.Loop() {
		if r, _ := f.s.Range(o); len(r.KVs) != want {
			b.Fatal(len(r.KVs))
		}
	}
}

func BenchmarkHashKV100k(b *testing.B) {
	f := filled(b, 100_000)
	for b.Loop() {
		if _, err := f.s.HashKV(0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompactStep(b *testing.B) {
	f := filled(b, 100_000)
	for range 2 {
		for i := range 100_000 {
			f.unit(func(tx *Txn) { tx.Put(benchKey(i), make([]byte, 256), 0) })
		}
	}
	rev, _ := f.s.Revision()
	f.b.Begin()
	_ = f.s.Compact(rev)
	f.b.End()
	steps, more := 0, true
	for b.Loop() {
		if more {
			f.b.Begin()
			more = f.s.CompactStep(1000)
			f.b.End()
			steps++
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(steps), "µs/step")
}

// cpu returns what the process has used, in seconds.
func cpu() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// BenchmarkRestore1M also reports processor seconds, which other work on the
// machine changes less.
func BenchmarkRestore1M(b *testing.B) {
	f := filled(b, 1_000_000)
	if err := f.b.Close(); err != nil {
		b.Fatal(err)
	}
	f.s = nil
	runtime.GC()
	for b.Loop() {
		start := cpu()
		var err error
		if f.b, err = backend.Open(backend.Options{Path: f.path, NoSync: true}); err != nil {
			b.Fatal(err)
		}
		opened := cpu()
		s, err := Open(f.b, Options{})
		if err != nil || s.Len() != 1_000_000 {
			b.Fatal(err)
		}
		b.ReportMetric(opened-start, "cpu-s/file")
		b.ReportMetric(cpu()-opened, "cpu-s/index")
		b.StopTimer()
		_ = f.b.Close()
		b.StartTimer()
	}
}
