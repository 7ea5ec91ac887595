package h2

import (
	"context"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"syscall"
	"testing"
	"time"
)

// TestServeForLoad serves two empty unary methods for a load generator outside, and
// reports what a call cost when it is interrupted:
//
//	H2_SERVE=127.0.0.1:17001 go test -run TestServeForLoad -v ./internal/h2
//	h2load -c 16 -m 16 -n 1000000 -d request.bin -H 'content-type: application/grpc' \
//	    -H 'te: trailers' http://127.0.0.1:17001/s.S/Now
//
// /s.S/Now is answered on the reader, /s.S/Later by another goroutine in bursts.
// H2_PROFILE names a file for a CPU profile.
func TestServeForLoad(t *testing.T) {
	addr := os.Getenv("H2_SERVE")
	if addr == "" {
		t.Skip("H2_SERVE is not set")
	}
	s := New(Options{})
	answer := func(c *Call) { c.Reply(append(c.Buffer(), "an answer"...), nil) }
	s.HandleUnary("/s.S/Now", answer)
	later := make(chan *Call, 1<<16)
	s.HandleUnary("/s.S/Later", func(c *Call) { later <- c })
	go func() {
		for c := range later {
			s.Hold()
			answer(c)
			for range len(later) {
				answer(<-later)
			}
			s.Release()
		}
	}()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if name := os.Getenv("H2_PROFILE"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		pprof.StartCPUProfile(f)
		defer pprof.StopCPUProfile()
	}
	go s.Serve(l)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	<-ctx.Done()
	var ru syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	var calls uint64
	s.Methods(func(m *Method) { calls += m.Started.Load() })
	calls = max(calls, 1)
	user, sys := time.Duration(ru.Utime.Nano()), time.Duration(ru.Stime.Nano())
	t.Logf("%d calls; each %v of CPU (%v user, %v system), %.1f allocations, %d bytes", calls,
		(user+sys)/time.Duration(calls), user/time.Duration(calls), sys/time.Duration(calls),
		float64(ms.Mallocs)/float64(calls), ms.TotalAlloc/calls)
	l.Close()
	s.Close()
}
