package backend

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

func revision(i int) []byte {
	k := make([]byte, 17)
	binary.BigEndian.PutUint64(k, uint64(i))
	k[8] = '_'
	return k
}

// filled has n records of 300 bytes in "key", as new revisions come.
func filled(b *testing.B, n int, o Options) *Backend {
	b.Helper()
	o.Path = filepath.Join(b.TempDir(), "db")
	o.NoSync = true
	be, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = be.Close() })
	value := make([]byte, 300)
	for i := range n {
		be.Begin()
		be.Put("key", revision(i), value)
		be.End()
	}
	if err := be.Flush(); err != nil {
		b.Fatal(err)
	}
	return be
}

// BenchmarkPut is one put in a unit with an index, flushes included.
func BenchmarkPut(b *testing.B) {
	be := filled(b, 1000, Options{})
	value := make([]byte, 300)
	index := []byte("consistent_index")
	b.ReportAllocs()
	for i := 1000; b.Loop(); i++ {
		k := revision(i)
		be.Begin()
		be.Put("key", k, value)
		be.Put("meta", index, k[:8])
		be.End()
	}
}

func BenchmarkGetPending(b *testing.B) {
	be := filled(b, 1000, Options{FlushInterval: time.Hour, FlushOps: 1 << 30})
	be.Begin()
	for i := 1000; i < 11_000; i++ {
		be.Put("key", revision(i), make([]byte, 300))
	}
	be.End()
	benchGet(b, be, 1000)
}

func BenchmarkGetFile(b *testing.B) { benchGet(b, filled(b, 100_000, Options{}), 50_000) }

func benchGet(b *testing.B, be *Backend, from int) {
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if be.Get("key", revision(from+i*7919%10_000)) == nil {
			b.Fatal(i)
		}
	}
}

func BenchmarkScan100k(b *testing.B) {
	be := filled(b, 100_000, Options{})
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		if err := be.Scan("key", nil, nil, func(k, v []byte) bool { n++; return true }); err != nil || n != 100_000 {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkOpen300MB is Open of a million records, and the part of it that is ours.
func BenchmarkOpen300MB(b *testing.B) {
	be := filled(b, 1_000_000, Options{})
	if err := be.Close(); err != nil {
		b.Fatal(err)
	}
	checking := time.Duration(0)
	for b.Loop() {
		f, err := os.Open(be.o.Path)
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		if err := checkFile(f); err != nil {
			b.Fatal(err)
		}
		checking += time.Since(start)
		_ = f.Close()
		again, err := Open(be.o)
		if err != nil {
			b.Fatal(err)
		}
		_ = again.Close()
	}
	b.ReportMetric(checking.Seconds()/float64(b.N), "s/check")
}

// BenchmarkDefragStall reports the longest a put waited while 110 MB, half of
// them free, were defragmented, fsync included.
func BenchmarkDefragStall(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		be := filled(b, 360_000, Options{})
		be.o.NoSync = false
		be.db.NoSync = false
		be.Begin()
		for i := 0; i < 360_000; i += 2 {
			be.Delete("key", revision(i))
		}
		be.End()
		if err := be.Flush(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		var done atomic.Bool
		go func() {
			if err := be.Defrag(context.Background(), nil); err != nil {
				b.Error(err)
			}
			done.Store(true)
		}()
		worst, puts := time.Duration(0), 0
		for i := 360_000; !done.Load(); i++ {
			start := time.Now()
			be.Begin()
			be.Put("key", revision(i), make([]byte, 300))
			be.End()
			worst = max(worst, time.Since(start))
			puts++
			if i%64 == 0 {
				time.Sleep(time.Millisecond) // a load, not a flood
			}
		}
		b.ReportMetric(float64(worst.Microseconds())/1000, "ms-longest-put")
		b.ReportMetric(float64(puts), "puts")
	}
}
