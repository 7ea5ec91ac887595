package h2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A Stream is what a blocking handler has of its call: grpc.ServerStream for the
// streams of a grpc.ServiceDesc, and the grpc.ServerTransportStream behind
// grpc.SetHeader, grpc.SendHeader and grpc.SetTrailer.
//
// As in grpc-go, one goroutine may send while another receives; two may not send,
// nor two receive, at the same time.
type Stream struct {
	call *Call

	mu    sync.Mutex // of what follows
	some  sync.Cond  // msgs or err has come
	msgs  []received
	err   error // after msgs: io.EOF, or why nothing more comes
	first bool  // a message has been taken
	why   error // of Interrupt

	metaMu          sync.Mutex // of header and trailer
	header, trailer metadata.MD
}

type received struct {
	msg        []byte
	compressed bool
}

var (
	_ grpc.ServerStream          = (*Stream)(nil)
	_ grpc.ServerTransportStream = transportStream{}
)

func newStream(call *Call) *Stream {
	s := &Stream{call: call}
	s.some.L = &s.mu
	return s
}

// startStream runs a streaming handler in a goroutine of its own.
func (c *conn) startStream(call *Call) {
	call.m.Started.Add(1)
	call.started = true
	call.clock()
	call.stream = newStream(call)
	c.mu.Lock()
	call.sendCond = sync.NewCond(&c.mu)
	c.mu.Unlock()
	if !call.deadline.IsZero() {
		context.AfterFunc(call.Context(), call.expire)
	}
	c.wg.Add(1)
	go call.runStream()
}

// Interrupt ends the stream from outside of its handler: RecvMsg and SendMsg fail
// with err, and the context is canceled. The handler, when it returns, still
// decides the status; Interrupted tells it why.
func (s *Stream) Interrupt(err error) {
	s.mu.Lock()
	if s.why == nil {
		s.why = err
	}
	s.mu.Unlock()
	s.end(err)
	s.call.ctx.cancel(context.Canceled)
	s.call.c.mu.Lock()
	defer s.call.c.mu.Unlock()
	s.call.wakeLocked()
}

// Interrupted is the first error that Interrupt was called with, or nil.
func (s *Stream) Interrupted() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

// expire wakes a handler that waits in RecvMsg or SendMsg when its context ends.
func (call *Call) expire() {
	call.stream.end(status.FromContextError(call.ctx.Err()).Err())
	call.c.mu.Lock()
	defer call.c.mu.Unlock()
	call.wakeLocked()
}

func (call *Call) runStream() {
	defer call.c.wg.Done()
	defer call.recovered()
	m, intercept := call.m, call.c.srv.o.StreamInterceptor
	var err error
	if intercept == nil {
		err = m.stream.Handler(m.impl, call.stream)
	} else {
		err = intercept(m.impl, call.stream, &grpc.StreamServerInfo{FullMethod: m.Path,
			IsClientStream: m.stream.ClientStreams, IsServerStream: m.stream.ServerStreams}, m.stream.Handler)
	}
	call.stream.finish(nil, err)
}

// runUnary runs a unary method of a grpc.ServiceDesc.
func (call *Call) runUnary() {
	defer call.c.wg.Done()
	defer call.recovered()
	decode := func(m any) error { return call.decode(call.req, m) }
	m, err := call.m.unary.Handler(call.m.impl, call.Context(), decode, call.c.srv.o.UnaryInterceptor)
	if err != nil {
		call.stream.finish(nil, err)
		return
	}
	msg, err := call.encode(m)
	call.stream.finish(msg, err)
}

func (call *Call) decode(b []byte, m any) error {
	if raw, ok := m.(*[]byte); ok {
		*raw = b
		return nil
	}
	if err := call.c.srv.o.Unmarshal(b, m); err != nil {
		return status.Errorf(codes.Internal, "grpc: error unmarshalling request: %v", err)
	}
	return nil
}

// encode returns a non-nil message.
func (call *Call) encode(m any) ([]byte, error) {
	if raw, ok := m.(*[]byte); ok {
		return append([]byte{}, *raw...), nil
	}
	b, err := call.c.srv.o.Marshal([]byte{}, m)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "grpc: error while marshaling: %v", err)
	}
	return b, nil
}

// finish ends the call: with a last message (nil: none) or an error, and the
// handler's metadata.
func (s *Stream) finish(msg []byte, err error) {
	call, c := s.call, s.call.c
	st := status.New(codes.OK, "")
	sent := -1
	if err != nil {
		st = StatusOf(err)
	} else if msg != nil {
		sent = len(msg)
	}
	call.count(st.Code(), sent)
	s.metaMu.Lock()
	tail := appendMetadata(appendStatusFields(nil, st), s.trailer)
	s.metaMu.Unlock()
	head := s.headBlock()
	flag, msg := call.compress(msg)
	c.mu.Lock()
	if call.answered() {
		s.finishLocked(head, flag, msg, tail)
		c.kick()
	}
	c.mu.Unlock()
	call.ctx.end()
	s.StopRecv()
}

// finishLocked writes the end of the response; without a message and without
// headers that were set, everything goes into one block (trailers only).
func (s *Stream) finishLocked(head []byte, flag byte, msg, tail []byte) {
	call, c := s.call, s.call.c
	if msg == nil && !call.headSent && len(head) == len(headBlock) {
		call.headSent = true
		c.finish(call, append(append([]byte(nil), headBlock...), tail...))
		return
	}
	c.sendHead(call, head)
	if msg != nil {
		c.sendMessage(call, flag, msg, true)
	}
	c.finish(call, tail)
}

// headBlock is the response's header block with what the handler has set.
func (s *Stream) headBlock() []byte {
	block := headBlock
	if s.call.enc != "" {
		block = headGzipBlock
	}
	s.metaMu.Lock()
	defer s.metaMu.Unlock()
	if len(s.header) == 0 {
		return block
	}
	return appendMetadata(append([]byte(nil), block...), s.header)
}

// compress returns the message as the peer's encoding asks, and its flag.
func (call *Call) compress(msg []byte) (flag byte, out []byte) {
	if call.enc == "" || msg == nil {
		return 0, msg
	}
	return 1, gzipped(msg)
}

// Method implements grpc.ServerTransportStream.
func (s *Stream) Method() string { return s.call.m.Path }

// Call is the call that the stream belongs to.
func (s *Stream) Call() *Call { return s.call }

// Context implements grpc.ServerStream.
func (s *Stream) Context() context.Context { return s.call.Context() }

var errHeadSent = errors.New("transport: the stream is done or WriteHeader was already called")

// SetHeader implements grpc.ServerStream: it adds to the header that goes out with
// the first message.
func (s *Stream) SetHeader(md metadata.MD) error {
	if s.isHeadSent() {
		return errHeadSent
	}
	s.metaMu.Lock()
	defer s.metaMu.Unlock()
	s.header = metadata.Join(s.header, md)
	return nil
}

func (s *Stream) isHeadSent() bool {
	s.call.c.mu.Lock()
	defer s.call.c.mu.Unlock()
	return s.call.headSent || s.call.done
}

// SendHeader implements grpc.ServerStream.
func (s *Stream) SendHeader(md metadata.MD) error {
	if err := s.SetHeader(md); err != nil {
		return err
	}
	block := s.headBlock()
	c := s.call.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.call.reset || c.broken {
		return errGone()
	}
	c.sendHead(s.call, block)
	c.kick()
	return nil
}

// SetTrailer implements grpc.ServerStream.
func (s *Stream) SetTrailer(md metadata.MD) {
	s.metaMu.Lock()
	defer s.metaMu.Unlock()
	s.trailer = metadata.Join(s.trailer, md)
}

// transportStream is a Stream as grpc.ServerTransportStream, whose SetTrailer has a
// result.
type transportStream struct{ *Stream }

func (t transportStream) SetTrailer(md metadata.MD) error {
	t.Stream.SetTrailer(md)
	return nil
}

// errGone is what a sender gets when the stream has been reset.
func errGone() error { return status.Error(codes.Canceled, "context canceled") }

// SendMsg implements grpc.ServerStream. It waits while much is queued for a peer
// that does not read.
func (s *Stream) SendMsg(m any) error {
	msg, err := s.call.encode(m)
	if err != nil {
		return err
	}
	return s.send([][]byte{msg}, true)
}

// SendRaw sends messages that are already encoded, all of them with one write
// where the peer's windows allow. They must not be changed afterwards, but may be
// shared between streams. It waits as SendMsg does.
func (s *Stream) SendRaw(msgs [][]byte) error { return s.send(msgs, true) }

// SendCopy is SendRaw for messages whose memory the caller uses again.
func (s *Stream) SendCopy(msgs [][]byte) error { return s.send(msgs, false) }

func (s *Stream) send(msgs [][]byte, ours bool) error {
	call, c := s.call, s.call.c
	head := s.headBlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, msg := range msgs {
		if err := s.room(); err != nil {
			return err
		}
		c.sendHead(call, head)
		flag, out := call.compress(msg)
		c.sendMessage(call, flag, out, ours || flag == 1)
		call.m.Sent.Add(1)
		call.m.SentBytes.Add(uint64(len(msg)))
	}
	c.kick()
	return nil
}

// room waits until the call's queue is short enough. c.mu is held.
func (s *Stream) room() error {
	call, c := s.call, s.call.c
	for {
		switch {
		case call.reset || c.broken:
			return errGone()
		case call.done:
			return fmt.Errorf("send on %s: the call has ended", call.m.Path)
		case call.ctx.Err() != nil:
			if why := s.Interrupted(); why != nil {
				return why
			}
			return status.FromContextError(call.ctx.Err()).Err()
		case call.queued <= streamQueueBytes:
			return nil
		}
		c.kick() // what this sender has queued so far
		call.sendCond.Wait()
	}
}

// RecvMsg implements grpc.ServerStream: io.EOF after the last message.
func (s *Stream) RecvMsg(m any) error {
	b, err := s.RecvRaw()
	if err != nil {
		return err
	}
	return s.call.decode(b, m)
}

// RecvRaw is RecvMsg without decoding. The message is the caller's.
func (s *Stream) RecvRaw() ([]byte, error) {
	r, err := s.next()
	if err != nil {
		return nil, err
	}
	if !s.call.m.clientStreams() {
		if err := s.last(); err != nil {
			return nil, err
		}
	}
	msg := r.msg
	if r.compressed {
		var st *status.Status
		if msg, st = gunzip(msg, s.call.c.srv.o.MaxMessageBytes); st != nil {
			return nil, st.Err()
		}
	}
	s.call.m.Received.Add(1)
	s.call.m.ReceivedBytes.Add(uint64(len(msg)))
	return msg, nil
}

func (m *Method) clientStreams() bool { return m.stream == nil || m.stream.ClientStreams }

// last waits for the end of a request that must be one message.
func (s *Stream) last() error {
	switch _, err := s.next(); {
	case err == io.EOF:
		return nil
	case err != nil:
		return err
	}
	return status.Error(codes.Internal, "cardinality violation: received multiple request messages for non-client-streaming RPC")
}

// next takes one message from the queue, waiting for it.
func (s *Stream) next() (received, error) {
	s.mu.Lock()
	for len(s.msgs) == 0 && s.err == nil {
		s.some.Wait()
	}
	if len(s.msgs) == 0 {
		err := s.err
		if err == io.EOF && !s.first && !s.call.m.clientStreams() {
			err = status.Error(codes.Internal, "cardinality violation: received no request message from non-client-streaming RPC")
		}
		s.mu.Unlock()
		return received{}, err
	}
	r := s.msgs[0]
	s.msgs[0] = received{}
	if s.msgs = s.msgs[1:]; len(s.msgs) == 0 {
		s.msgs = nil
	}
	s.first = true
	s.mu.Unlock()
	s.call.taken(len(r.msg) + 5)
	return r, nil
}

// taken gives a message's bytes back to the peer's window.
func (call *Call) taken(n int) {
	c := call.c
	c.mu.Lock()
	defer c.mu.Unlock()
	call.untaken -= n
	if call.reset || call.done {
		return
	}
	call.held -= n
	c.held -= int64(n)
	before := c.out.n
	c.refill(call)
	if c.out.n != before {
		c.kick()
	}
}

// push adds a received message. The reader calls it.
func (s *Stream) push(msg []byte, compressed bool) {
	call, c := s.call, s.call.c
	c.mu.Lock()
	call.untaken += len(msg) + 5
	c.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.msgs = append(s.msgs, received{msg, compressed})
		s.some.Signal()
	}
}

// end lets RecvMsg return err after the messages that have come; only the first
// end counts. A canceled call's messages are dropped.
func (s *Stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil || (s.err == io.EOF && err != io.EOF) {
		s.err = err
	}
	if s.err != io.EOF {
		s.msgs = nil
	}
	s.some.Broadcast()
}

// StopRecv makes RecvMsg return io.EOF from now on, for a handler that ends and
// waits for the goroutine that receives.
func (s *Stream) StopRecv() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.msgs = nil
	if s.err == nil {
		s.err = io.EOF
	}
	s.some.Broadcast()
}
