package server

import (
	"context"
	"sync"

	"google.golang.org/protobuf/proto"
)

// A Waiter is told how a request ended, exactly once, on a goroutine of the server
// that it must not hold up (encode and hand over, no more).
type Waiter interface{ Done(o Outcome) }

// Outcome is what became of a request: an error, or an answer. Resp is the answer
// of the request's kind with a header that holds the revision only (FillHeader
// adds the rest); for StartRange it is nil and Range holds the answer.
type Outcome struct {
	Resp  proto.Message
	Range RangeResult
	Err   error
}

// RangeResult is the answer of a range read. KVs are encoded mvccpb.KeyValues and
// must not be changed; Rev is the revision of the header.
type RangeResult struct {
	KVs   [][]byte
	Count int64
	More  bool
	Rev   int64
}

// A call is the Waiter of a request that a goroutine waits for.
type call struct{ ch chan Outcome }

var calls = sync.Pool{New: func() any { return &call{ch: make(chan Outcome, 1)} }}

func newCall() *call { return calls.Get().(*call) }

// Done implements Waiter.
func (c *call) Done(o Outcome) { c.ch <- o }

// wait returns the outcome. When ctx ends first the call is given up (it is not
// reused, since its outcome may still come) and ok is false.
func (c *call) wait(ctx context.Context) (o Outcome, ok bool) {
	select {
	case o = <-c.ch:
		calls.Put(c)
		return o, true
	case <-ctx.Done():
		return Outcome{}, false
	}
}

// outcome makes an Outcome of an answer and an error.
func outcome[T proto.Message](m T, err error) Outcome {
	if err != nil {
		return Outcome{Err: err}
	}
	return Outcome{Resp: m}
}

// answer is the other way: the answer as what the request's kind answers.
func answer[T proto.Message](m proto.Message, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return m.(T), nil
}
