package h2

import (
	"context"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// A Call is one gRPC call. Its request side may be read from any goroutine as long
// as the call is unanswered and after.
type Call struct {
	c  *conn
	id uint32
	m  *Method

	agent, authority string
	ctype, accepts   string
	fields           []hpack.HeaderField // metadata, -bin values decoded
	enc              string              // grpc-encoding: "" or "gzip"
	deadline         time.Time           // zero: none
	begun            time.Time           // for Options.Done
	buf              *[]byte             // what Buffer gave out
	ctx              callContext

	// Of the reader.
	p       parser
	req     []byte
	started bool    // the handler has been called
	stream  *Stream // of a streaming or blocking handler
	body    *body   // of a request that is not gRPC

	// Under c.mu.
	ended    bool // the peer has ended its side
	recvWin  int
	recvOwed int
	untaken  int // bytes of whole messages that RecvMsg has not taken
	held     int // the call's share of c.held
	sendWin  int64
	queue    [][]byte
	queued   int
	tail     []byte
	tailSet  bool
	headSent bool
	inRing   bool
	done     bool // answered
	reset    bool // reset by either side, or the connection is gone
	sendCond *sync.Cond
}

// Method is the registered method that was called.
func (call *Call) Method() *Method { return call.m }

// Request is the request message. It is the call's own memory and never changes:
// it may be kept and aliased.
func (call *Call) Request() []byte { return call.req }

// Header is the first value of a metadata name (lower case); ok tells whether it
// was sent. Values of -bin names are decoded.
func (call *Call) Header(name string) (value string, ok bool) {
	for i := range call.fields {
		if call.fields[i].Name == name {
			return call.fields[i].Value, true
		}
	}
	return "", false
}

// Metadata is the request's metadata as grpc-go would show it.
func (call *Call) Metadata() metadata.MD {
	md := make(metadata.MD, len(call.fields)+3)
	md["content-type"] = []string{call.ctype}
	if call.authority != "" {
		md[":authority"] = []string{call.authority}
	}
	if call.agent != "" {
		md["user-agent"] = []string{call.agent}
	}
	if call.accepts != "" {
		md["grpc-accept-encoding"] = []string{call.accepts}
	}
	for _, f := range call.fields {
		if !reservedName(f.Name) {
			md[f.Name] = append(md[f.Name], f.Value)
		}
	}
	return md
}

// Deadline is when the client stops waiting; ok is false where it said nothing.
func (call *Call) Deadline() (t time.Time, ok bool) {
	return call.deadline, !call.deadline.IsZero()
}

// Peer is the other end of the connection, with its TLS state.
func (call *Call) Peer() *peer.Peer { return call.c.peer }

// Context carries the deadline, the peer and the incoming metadata; it ends when
// the client cancels or the call has been answered. It costs nothing until its
// Done or Value is asked for.
func (call *Call) Context() context.Context { return &call.ctx }

// Canceled tells whether the client has given the call up.
func (call *Call) Canceled() bool {
	call.c.mu.Lock()
	defer call.c.mu.Unlock()
	return call.reset
}

// bufPool holds the buffers of Call.Buffer.
var bufPool = sync.Pool{New: func() any { b := make([]byte, 0, copyBelow); return &b }}

// Buffer is an empty buffer to append the response to before Reply, which takes it
// back. At most one a call.
func (call *Call) Buffer() []byte {
	if call.buf == nil {
		call.buf = bufPool.Get().(*[]byte)
	}
	return (*call.buf)[:0]
}

// Reply answers the call: with resp, or with err as gRPC status (an error with a
// GRPCStatus method keeps its code and text, a context error its own, any other is
// Unknown). It must be called once, from any goroutine; it does not block. resp
// must not be changed afterwards.
func (call *Call) Reply(resp []byte, err error) {
	if err != nil {
		call.answerStatus(StatusOf(err))
		return
	}
	c, msg, flag, head := call.c, resp, byte(0), headBlock
	if call.enc != "" {
		msg, flag, head = gzipped(resp), 1, headGzipBlock
	}
	call.count(codes.OK, len(resp))
	c.mu.Lock()
	if call.answered() {
		c.sendHead(call, head)
		c.sendMessage(call, flag, msg, true)
		c.finish(call, tailOKBlock)
		c.kick()
	}
	c.mu.Unlock()
	call.ctx.end()
	call.recycle(resp)
}

// recycle returns the call's buffer to the pool, unless resp lies in it and is
// still to be written.
func (call *Call) recycle(resp []byte) {
	p := call.buf
	if p == nil {
		return
	}
	call.buf = nil
	if len(resp) < copyBelow || call.enc != "" || &resp[0] != &(*p)[:1][0] {
		bufPool.Put(p)
	}
}

// answerStatus ends the call with a status that is not OK.
func (call *Call) answerStatus(st *status.Status) {
	c := call.c
	call.count(st.Code(), -1)
	c.mu.Lock()
	if call.answered() {
		var block []byte
		if !call.headSent {
			block = append(block, headBlock...)
			call.headSent = true
		}
		c.finish(call, appendStatusFields(block, st))
		c.kick()
	}
	c.mu.Unlock()
	call.ctx.end()
}

// answered marks the call as done and tells whether the answer can still be sent.
// c.mu is held.
func (call *Call) answered() bool {
	if call.done {
		call.c.srv.o.Logger.Error("call answered twice", zap.String("method", call.m.Path))
		return false
	}
	call.done = true
	if call.reset {
		if call.started {
			call.c.orphans--
		}
		return false
	}
	return !call.c.broken
}

// count keeps the method's counters. sent < 0: no message.
func (call *Call) count(code codes.Code, sent int) {
	m := call.m
	m.handled(code)
	if sent >= 0 {
		m.Sent.Add(1)
		m.SentBytes.Add(uint64(sent))
	}
	if done := call.c.srv.o.Done; done != nil && !call.begun.IsZero() {
		done(m, time.Since(call.begun))
	}
}

func (call *Call) clock() {
	if call.c.srv.o.Done != nil {
		call.begun = time.Now()
	}
}

// cancel tells the call's handler that nobody waits any more.
func (call *Call) cancel(err error) {
	call.ctx.cancel(err)
	if call.stream != nil {
		call.stream.end(status.FromContextError(err).Err())
	}
	if call.body != nil {
		call.body.end(err)
	}
}

// wakeLocked wakes a sender that waits for room in the call's queue. c.mu is held.
func (call *Call) wakeLocked() {
	if call.sendCond != nil {
		call.sendCond.Broadcast()
	}
}

// runInline runs an inline handler on the reader.
func (call *Call) runInline() {
	defer call.recovered()
	call.m.inline(call)
}

// recovered turns a handler's panic into Internal for its caller.
func (call *Call) recovered() {
	v := recover()
	if v == nil {
		return
	}
	stack := debug.Stack()
	if f := call.c.srv.o.Recovered; f != nil {
		f(call.m.Path, v, stack)
	} else {
		call.c.srv.o.Logger.Error("handler panicked", zap.String("method", call.m.Path),
			zap.Any("panic", v), zap.ByteString("stack", stack))
	}
	call.c.mu.Lock()
	done := call.done
	call.c.mu.Unlock()
	if !done {
		call.answerStatus(status.New(codes.Internal, "panic in handler"))
	}
}

// StatusOf is the gRPC status that a client gets for err.
func StatusOf(err error) *status.Status {
	if st, ok := status.FromError(err); ok {
		return st
	}
	return status.FromContextError(err)
}

// appendStatusFields appends the trailers of a status.
func appendStatusFields(b []byte, st *status.Status) []byte {
	b = appendField(b, "grpc-status", strconv.Itoa(int(st.Code())))
	if msg := st.Message(); msg != "" {
		b = appendField(b, "grpc-message", encodeMessage(msg))
	}
	if p := st.Proto(); len(p.GetDetails()) > 0 {
		if raw, err := proto.Marshal(p); err == nil {
			b = appendField(b, "grpc-status-details-bin", encodeMetadata("-bin", string(raw)))
		}
	}
	return b
}
