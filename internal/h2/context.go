package h2

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// callContext is the context of a call. The standard context behind it, with its
// timer and metadata, is made when first needed: most calls never do.
type callContext struct {
	call *Call

	mu   sync.Mutex
	std  context.Context
	stop context.CancelFunc
	err  error // ended before std was made
}

// get makes the standard context.
func (x *callContext) get() context.Context {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.std != nil {
		return x.std
	}
	call := x.call
	ctx := metadata.NewIncomingContext(call.c.ctx, call.Metadata())
	if call.stream != nil {
		ctx = grpc.NewContextWithServerTransportStream(ctx, transportStream{call.stream})
	}
	if call.deadline.IsZero() {
		x.std, x.stop = context.WithCancel(ctx)
	} else {
		x.std, x.stop = context.WithDeadline(ctx, call.deadline)
	}
	if x.err != nil {
		x.stop()
	}
	return x.std
}

func (x *callContext) Deadline() (time.Time, bool) { return x.call.Deadline() }

func (x *callContext) Done() <-chan struct{} { return x.get().Done() }

func (x *callContext) Value(key any) any { return x.get().Value(key) }

func (x *callContext) Err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.err != nil:
		return x.err
	case x.std != nil:
		return x.std.Err()
	case !x.call.deadline.IsZero() && !time.Now().Before(x.call.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// cancel ends the context; only the first end counts.
func (x *callContext) cancel(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.std != nil {
		if x.err == nil {
			x.err = x.std.Err() // its own deadline may have come first
		}
		x.stop()
	}
	if x.err == nil {
		x.err = err
	}
}

// end is cancel for a call that has been answered.
func (x *callContext) end() { x.cancel(context.Canceled) }
