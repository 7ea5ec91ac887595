package server

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
)

// benchMember is one member with etcd's defaults, its disk synced.
func benchMember(b *testing.B) *Server {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	s, err := New(Options{Name: "m0", DataDir: filepath.Join(b.TempDir(), "m0"), PeerURLs: []string{"http://" + l.Addr().String()}})
	if err != nil {
		b.Fatal(err)
	}
	s.Start()
	b.Cleanup(func() { _ = s.Stop(context.Background()) })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.LinearizableReadNotify(ctx); err != nil {
		b.Fatal(err)
	}
	return s
}

// slots is a Waiter that lets so many requests be in flight.
type slots struct {
	free chan struct{}
	b    *testing.B
}

func newSlots(b *testing.B, n int) *slots {
	s := &slots{free: make(chan struct{}, n), b: b}
	for range n {
		s.free <- struct{}{}
	}
	return s
}

func (s *slots) Done(o Outcome) {
	if o.Err != nil {
		s.b.Error(o.Err)
	}
	s.free <- struct{}{}
}

func (s *slots) drain() {
	for range cap(s.free) {
		<-s.free
	}
}

func BenchmarkPut(b *testing.B) {
	for _, inFlight := range []int{1, 64, 1000} {
		b.Run(name(inFlight), func(b *testing.B) {
			s := benchMember(b)
			value := make([]byte, 256)
			w := newSlots(b, inFlight)
			var keys [1000][]byte
			for i := range keys {
				keys[i] = []byte{'k', byte(i), byte(i >> 8)}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				<-w.free
				r := &pb.PutRequest{Key: keys[i%len(keys)], Value: value}
				s.StartPut(Credentials{}, r, api.Append(make([]byte, 0, 300), r), w)
			}
			w.drain()
		})
	}
}

func BenchmarkGet(b *testing.B) {
	for _, inFlight := range []int{1, 64, 1000} {
		b.Run(name(inFlight), func(b *testing.B) {
			s := benchMember(b)
			var one sync.WaitGroup
			one.Add(1)
			s.StartPut(Credentials{}, &pb.PutRequest{Key: []byte("k"), Value: make([]byte, 256)}, nil, waiterFunc(func(Outcome) { one.Done() }))
			one.Wait()
			w := newSlots(b, inFlight)
			r := &pb.RangeRequest{Key: []byte("k")}
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				<-w.free
				s.StartRange(Credentials{}, r, w)
			}
			w.drain()
		})
	}
}

type waiterFunc func(Outcome)

func (f waiterFunc) Done(o Outcome) { f(o) }

func name(inFlight int) string {
	return map[int]string{1: "one", 64: "64", 1000: "1000"}[inFlight]
}
