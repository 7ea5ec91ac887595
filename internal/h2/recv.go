package h2

import (
	"encoding/binary"
	"io"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// parser cuts a stream's DATA into gRPC's length-prefixed messages.
type parser struct {
	prefix [5]byte
	np     int    // bytes of prefix that have come
	msg    []byte // the message so far
	need   int    // bytes of it that are to come
}

// firstAlloc bounds what is allocated on a length field's word alone.
const firstAlloc = 64 << 10

// feed takes some bytes and calls deliver for each message they complete. It
// returns the status that ends the call, or nil.
func (p *parser) feed(b []byte, max int, deliver func(msg []byte, compressed bool) *status.Status) *status.Status {
	for len(b) > 0 {
		if p.np < 5 {
			n := copy(p.prefix[p.np:], b)
			p.np += n
			b = b[n:]
			if p.np < 5 {
				return nil
			}
			if st := p.begin(max); st != nil {
				return st
			}
		}
		n := min(p.need, len(b))
		p.msg = append(p.msg, b[:n]...)
		p.need -= n
		b = b[n:]
		if p.need == 0 {
			msg := p.msg
			p.np, p.msg = 0, nil
			if st := deliver(msg, p.prefix[0] == 1); st != nil {
				return st
			}
		}
	}
	return nil
}

// begin looks at a complete prefix.
func (p *parser) begin(max int) *status.Status {
	n := binary.BigEndian.Uint32(p.prefix[1:])
	if int64(n) > int64(max) {
		return tooLarge(n, max)
	}
	p.need = int(n)
	p.msg = make([]byte, 0, min(p.need, firstAlloc))
	return nil
}

func tooLarge(n uint32, max int) *status.Status {
	return status.Newf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d)", n, max)
}

// partial tells whether a message has begun and not ended.
func (p *parser) partial() bool { return p.np > 0 }

// whole returns the message of a DATA frame that holds exactly one, uncompressed.
func whole(b []byte, max int) ([]byte, bool) {
	if len(b) < 5 || b[0] != 0 {
		return nil, false
	}
	n := binary.BigEndian.Uint32(b[1:])
	if int(n) != len(b)-5 || int(n) > max {
		return nil, false
	}
	msg := make([]byte, n)
	copy(msg, b[5:])
	return msg, true
}

// open registers a call and starts what can start before its message.
func (c *conn) open(call *Call) error {
	call.recvWin = streamWindow
	call.ended = c.hdEnd
	c.mu.Lock()
	call.sendWin = c.initWin
	c.streams[call.id] = call
	for i := range call.fields {
		call.held += len(call.fields[i].Name) + len(call.fields[i].Value)
	}
	c.held += int64(call.held)
	c.mu.Unlock()
	if call.m.stream != nil {
		c.startStream(call)
	}
	if c.hdEnd {
		return c.complete(call)
	}
	return nil
}

func (c *conn) onData(f *http2.DataFrame) error {
	n := int64(f.Length)
	c.recvWin -= n
	if c.recvWin < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	c.recvOwed += int(n)
	end := f.StreamEnded()
	data := f.Data()
	c.mu.Lock()
	if c.recvOwed >= connWindow/4 {
		c.out.windowUpdate(0, uint32(c.recvOwed))
		c.recvWin += int64(c.recvOwed)
		c.recvOwed = 0
	}
	call := c.streams[f.StreamID]
	if err := c.mayTake(f, call); err != nil || call == nil {
		c.mu.Unlock()
		return err
	}
	call.ended = end
	c.mu.Unlock()
	if end && call.m.stream == nil && !call.p.partial() && call.req == nil && call.body == nil {
		if msg, ok := whole(data, c.srv.o.MaxMessageBytes); ok {
			call.req = msg
			return c.start(call)
		}
	}
	return c.takeData(call, data, int(n), end)
}

// mayTake checks a DATA frame against its stream's state and window. A stream that
// we have closed takes nothing, silently. c.mu is held.
func (c *conn) mayTake(f *http2.DataFrame, call *Call) error {
	switch {
	case call == nil && f.StreamID > c.lastID:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case call == nil:
		return c.uselessLocked(1)
	case call.ended:
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeStreamClosed}
	}
	call.recvWin -= int(f.Length)
	if call.recvWin < 0 {
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeFlowControl}
	}
	if f.Length == 0 && !f.StreamEnded() {
		return c.uselessLocked(1)
	}
	c.flood.idle = 0
	return nil
}

// takeData takes a frame's data into its call: n is what it weighs in the window.
func (c *conn) takeData(call *Call, data []byte, n int, end bool) error {
	c.mu.Lock()
	call.held += len(data)
	c.held += int64(len(data))
	over := c.held > c.srv.maxHeld
	c.mu.Unlock()
	if over {
		return http2.StreamError{StreamID: call.id, Code: http2.ErrCodeEnhanceYourCalm}
	}
	if call.body != nil {
		call.body.add(data)
	} else if st := call.p.feed(data, c.srv.o.MaxMessageBytes, call.deliver); st != nil {
		c.badRequest(call, st)
		return nil
	}
	c.mu.Lock()
	call.recvOwed += n
	c.refill(call)
	c.mu.Unlock()
	if end {
		return c.complete(call)
	}
	return nil
}

// refill gives the peer back what a call has taken, while not too much waits.
// c.mu is held.
func (c *conn) refill(call *Call) {
	if call.ended || call.reset || call.untaken >= streamWindow || call.recvOwed < streamWindow/4 {
		return
	}
	c.out.windowUpdate(call.id, uint32(call.recvOwed))
	call.recvWin += call.recvOwed
	call.recvOwed = 0
}

// release forgets what a call holds of its request. c.mu is held.
func (c *conn) release(call *Call) {
	c.held -= int64(call.held)
	call.held = 0
}

// deliver takes a complete message.
func (call *Call) deliver(msg []byte, compressed bool) *status.Status {
	if compressed && call.enc == "" {
		return status.New(codes.Internal, "grpc: compressed flag set with identity or empty encoding")
	}
	if call.p.prefix[0] > 1 {
		return status.Newf(codes.Internal, "grpc: received unexpected payload format %d", call.p.prefix[0])
	}
	if call.stream != nil {
		call.stream.push(msg, compressed)
		return nil
	}
	if call.req != nil {
		return status.New(codes.Internal, "cardinality violation: received multiple request messages for non-client-streaming RPC")
	}
	if compressed {
		var st *status.Status
		if msg, st = gunzip(msg, call.c.srv.o.MaxMessageBytes); st != nil {
			return st
		}
	}
	call.req = msg
	return nil
}

// onEnd takes END_STREAM that came with trailers.
func (c *conn) onEnd(call *Call) error {
	c.mu.Lock()
	call.ended = true
	c.mu.Unlock()
	return c.complete(call)
}

// complete acts on the end of a request.
func (c *conn) complete(call *Call) error {
	if call.body != nil {
		call.body.end(io.EOF)
		return nil
	}
	if call.stream != nil {
		err := error(io.EOF)
		if call.p.partial() {
			err = status.Error(codes.Internal, io.ErrUnexpectedEOF.Error())
		}
		call.stream.end(err)
		return nil
	}
	switch {
	case call.p.partial():
		c.badRequest(call, status.New(codes.Internal, io.ErrUnexpectedEOF.Error()))
	case call.req == nil:
		c.badRequest(call, status.New(codes.Internal, "cardinality violation: received no request message from non-client-streaming RPC"))
	default:
		c.mu.Lock()
		c.release(call)
		c.mu.Unlock()
		return c.start(call)
	}
	return nil
}

// badRequest ends a call whose messages break the protocol: at once where no
// handler runs yet, by the next RecvMsg where one does.
func (c *conn) badRequest(call *Call, st *status.Status) {
	if call.stream != nil {
		call.stream.end(st.Err())
		return
	}
	call.m.Started.Add(1)
	call.answerStatus(st)
}

// start runs the handler of a unary call that is complete.
func (c *conn) start(call *Call) error {
	m := call.m
	m.Started.Add(1)
	m.Received.Add(1)
	m.ReceivedBytes.Add(uint64(len(call.req)))
	call.started = true
	call.clock()
	if m.inline != nil {
		call.runInline()
		return nil
	}
	call.stream = newStream(call)
	c.wg.Add(1)
	go call.runUnary()
	return nil
}
