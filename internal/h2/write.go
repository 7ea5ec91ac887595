package h2

import (
	"bytes"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// This file moves bytes from calls to the socket. Small answers go straight into
// conn.out; what a flow-control window or a full out holds back waits in its
// call's queue, and the calls that may send wait in conn.ring, so that each gets
// a frame in its turn.

// ring is a queue of calls with DATA to send.
type ring struct {
	list []*Call
	from int
}

func (r *ring) empty() bool { return r.from == len(r.list) }

func (r *ring) push(call *Call) { r.list = append(r.list, call) }

func (r *ring) pop() *Call {
	call := r.list[r.from]
	r.list[r.from] = nil
	if r.from++; r.from == len(r.list) {
		r.list, r.from = r.list[:0], 0
	} else if r.from > 64 && r.from*2 > len(r.list) {
		n := copy(r.list, r.list[r.from:])
		clear(r.list[n:])
		r.list, r.from = r.list[:n], 0
	}
	return call
}

// sendHead sends the response's header block, once.
func (c *conn) sendHead(call *Call, block []byte) {
	if call.headSent {
		return
	}
	call.headSent = true
	c.sent++
	c.out.headers(call.id, block, false, c.maxFrame)
}

// sendMessage sends or queues one gRPC message. If it is ours it does not change
// afterwards and is written from where it lies; otherwise it is copied.
func (c *conn) sendMessage(call *Call, compressed byte, msg []byte, ours bool) {
	prefix := [5]byte{compressed, byte(len(msg) >> 24), byte(len(msg) >> 16), byte(len(msg) >> 8), byte(len(msg))}
	c.sendData(call, prefix[:], msg, ours)
}

// sendData sends prefix and p as DATA, or queues them.
func (c *conn) sendData(call *Call, prefix, p []byte, ours bool) {
	n := len(prefix) + len(p)
	if !c.direct(call, n) {
		if !ours && len(p) >= copyBelow {
			p = bytes.Clone(p)
		}
		c.queue(call, prefix, p)
		return
	}
	c.sendWin -= int64(n)
	call.sendWin -= int64(n)
	c.sent++
	c.out.frame(http2.FrameData, 0, call.id, n)
	c.out.copy(prefix)
	if ours {
		c.payload(p)
	} else {
		c.out.copy(p)
	}
}

// direct tells whether n bytes may go out as one frame now, in front of nobody.
func (c *conn) direct(call *Call, n int) bool {
	return n <= c.maxFrame && int64(n) <= call.sendWin && int64(n) <= c.sendWin &&
		call.queued == 0 && c.ring.empty() && c.out.n < outHighBytes
}

func (c *conn) payload(p []byte) {
	if len(p) < copyBelow || c.raw == nil {
		c.out.copy(p)
	} else {
		c.out.refer(p)
	}
}

// queue adds a message to the call's queue; as for sendMessage, a short one is
// copied.
func (c *conn) queue(call *Call, prefix, msg []byte) {
	if len(msg) < copyBelow {
		one := make([]byte, 0, len(prefix)+len(msg))
		call.queue = append(call.queue, append(append(one, prefix...), msg...))
	} else {
		call.queue = append(call.queue, append([]byte(nil), prefix...), msg)
	}
	n := len(prefix) + len(msg)
	call.queued += n
	c.queued += int64(n)
	c.enter(call)
	c.pump()
}

// enter puts a call into the ring if it has something that its window lets out.
func (c *conn) enter(call *Call) {
	if call.inRing || call.reset {
		return
	}
	if call.queued > 0 && call.sendWin > 0 {
		call.inRing = true
		c.ring.push(call)
	}
}

// unqueue drops what a reset call still wanted to send.
func (c *conn) unqueue(call *Call) {
	c.queued -= int64(call.queued)
	call.queue, call.queued = nil, 0
	call.wakeLocked()
}

// pump moves DATA from the ring to out, a frame a call in turn, as far as the
// windows and outHighBytes let it.
func (c *conn) pump() {
	for !c.ring.empty() && c.sendWin > 0 && c.out.n < outHighBytes && !c.broken {
		call := c.ring.pop()
		call.inRing = false
		if call.reset || call.queued == 0 || call.sendWin <= 0 {
			continue
		}
		c.sendFrame(call, int(min(int64(c.maxFrame), c.sendWin, call.sendWin, int64(call.queued))))
		if call.queued == 0 && call.tailSet {
			c.sendTail(call)
			continue
		}
		c.enter(call)
		if call.queued <= streamQueueBytes {
			call.wakeLocked()
		}
	}
}

// sendFrame sends n bytes of the call's queue as one DATA frame.
func (c *conn) sendFrame(call *Call, n int) {
	c.sendWin -= int64(n)
	call.sendWin -= int64(n)
	call.queued -= n
	c.queued -= int64(n)
	c.sent++
	c.out.frame(http2.FrameData, 0, call.id, n)
	for n > 0 {
		p := call.queue[0]
		if len(p) > n {
			call.queue[0] = p[n:]
			c.payload(p[:n])
			return
		}
		c.payload(p)
		n -= len(p)
		call.queue[0] = nil
		call.queue = call.queue[1:]
	}
	if len(call.queue) == 0 {
		call.queue = nil
	}
}

// finish sends the trailers, after what is queued.
func (c *conn) finish(call *Call, tail []byte) {
	call.tail, call.tailSet = tail, true
	if call.queued == 0 {
		c.sendTail(call)
	}
}

// sendTail ends the stream from our side; nil means with an empty DATA frame.
func (c *conn) sendTail(call *Call) {
	c.sent++
	if call.tail == nil {
		c.out.frame(http2.FrameData, http2.FlagDataEndStream, call.id, 0)
	} else {
		c.out.headers(call.id, call.tail, true, c.maxFrame)
	}
	call.tail = nil
	if !call.ended { // the peer must stop sending
		c.out.rst(call.id, http2.ErrCodeNo)
	}
	delete(c.streams, call.id)
	c.release(call)
	c.afterClose()
}

// kick sees to it that out gets written: by the reader when it is at work, at the
// end of the server's hold, or by a writer of its own.
func (c *conn) kick() {
	if c.busy || c.corked || c.srv.dirty.add(c) {
		return
	}
	c.startWriter()
}

func (c *conn) startWriter() {
	if c.writing || c.broken || (c.out.n == 0 && len(c.unsent) == 0 && !c.closeIdle) {
		return
	}
	c.writing = true
	c.wg.Add(1)
	go c.write()
}

// settle is called by the reader before it waits for input: it writes what the
// batch of frames has produced, without waiting where it can.
func (c *conn) settle() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
	for c.out.n > outStopBytes && !c.broken {
		c.startWriter()
		c.drained.Wait()
	}
	if c.broken {
		return errPeerGone
	}
	if c.raw == nil || c.closeIdle || len(c.out.refs) > 0 {
		c.startWriter()
		return nil
	}
	for !c.writing && c.out.n > 0 && len(c.out.refs) == 0 && !c.broken {
		c.tryOut()
	}
	if !c.writing {
		c.rest()
	}
	c.startWriter()
	return nil
}

// tryOut writes out as far as the socket takes it. The rest goes to unsent.
func (c *conn) tryOut() {
	o := c.take()
	c.writing = true
	c.mu.Unlock()
	c.tryBuf = o.b
	err := c.raw.Write(c.tryFn)
	c.tryBuf = nil
	c.mu.Lock()
	c.writing = false
	if err == nil {
		err = c.tryErr
	}
	if err != nil {
		c.breakLocked()
	} else if c.tryN < len(o.b) {
		c.unsent = append(c.unsent[:0], o.b[c.tryN:]...)
		c.startWriter()
	}
	c.giveBack(o)
	c.pump()
}

// write is the writer goroutine: it lives while there is something to write.
func (c *conn) write() {
	defer c.wg.Done()
	runtime.Gosched() // answers that are being made join this write
	c.mu.Lock()
	defer c.mu.Unlock()
	var bufs net.Buffers
	for !c.broken && (c.out.n > 0 || len(c.unsent) > 0) {
		rest := c.unsent
		c.unsent = nil
		o := c.take()
		c.mu.Unlock()
		bufs = bufs[:0]
		if len(rest) > 0 {
			bufs = append(bufs, rest)
		}
		err := c.writeAll(o.buffers(bufs))
		c.mu.Lock()
		if err != nil {
			c.breakLocked()
		}
		c.giveBack(o)
		c.pump()
		c.drained.Broadcast()
	}
	c.writing = false
	c.rest()
	c.drained.Broadcast()
	if c.closeIdle && !c.broken {
		// Drained and written: the reader ends the connection.
		c.nc.SetReadDeadline(time.Now())
	}
}

// writeAll writes everything or fails.
func (c *conn) writeAll(bufs net.Buffers) error {
	if len(bufs) == 1 {
		_, err := c.nc.Write(bufs[0])
		return err
	}
	_, err := bufs.WriteTo(c.nc)
	return err
}

// take swaps out for its empty twin.
func (c *conn) take() outbuf {
	o := c.out
	c.out, c.spare = c.spare, outbuf{}
	return o
}

// giveBack keeps one written buffer as the twin.
func (c *conn) giveBack(o outbuf) {
	if c.spare.b == nil && !c.broken {
		o.reset()
		c.spare = o
	}
}

// rest is called when everything has been written: a connection that waits keeps
// no large buffers.
func (c *conn) rest() {
	for _, o := range [2]*outbuf{&c.out, &c.spare} {
		if o.n == 0 && cap(o.b) > pooledBytes {
			if b := o.b[:0]; cap(b) == largeBytes {
				largeBufs.Put(&b)
			}
			o.b = nil
		}
	}
}

// dirtyList is the connections whose answers wait for the end of a Hold.
type dirtyList struct {
	mu    sync.Mutex
	holds int
	conns []*conn
}

// add keeps c for the end of the hold, if there is one. c.mu is held.
func (d *dirtyList) add(c *conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.holds == 0 {
		return false
	}
	c.corked = true
	d.conns = append(d.conns, c)
	return true
}

// Hold says that many calls are about to be answered in one go: answers are kept
// until Release, which writes each connection's in one piece. It must follow
// within a fraction of a millisecond; holds may overlap.
func (s *Server) Hold() {
	s.dirty.mu.Lock()
	s.dirty.holds++
	s.dirty.mu.Unlock()
}

// Release ends a Hold.
func (s *Server) Release() {
	s.dirty.mu.Lock()
	var list []*conn
	if s.dirty.holds--; s.dirty.holds == 0 {
		list, s.dirty.conns = s.dirty.conns, nil
	}
	s.dirty.mu.Unlock()
	for _, c := range list {
		c.mu.Lock()
		c.corked = false
		if !c.busy {
			c.startWriter()
		}
		c.mu.Unlock()
	}
}
