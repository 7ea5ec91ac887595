package peer

import (
	"errors"
	"net"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// outgoing is one kind of stream to a peer, as its writer sees it: the queue, and the
// connection that the peer has dialed, if there is one. The newest takes the place
// of an older one.
type outgoing struct {
	p       *peer
	kind    string
	encoder func() encoder
	wake    chan struct{}

	mu     sync.Mutex
	closed bool
	conn   net.Conn
	queue  []raftpb.Message
	spare  []raftpb.Message
}

func (o *outgoing) init(p *peer, kind string, enc func() encoder) {
	o.p, o.kind, o.encoder, o.wake = p, kind, enc, make(chan struct{}, 1)
}

// put queues m if there is a connection and the queue has room.
func (o *outgoing) put(m *raftpb.Message) (attached, queued bool) {
	o.mu.Lock()
	if o.conn == nil {
		o.mu.Unlock()
		return false, false
	}
	if len(o.queue) >= streamQueue {
		o.mu.Unlock()
		return true, false
	}
	o.queue = append(o.queue, *m)
	o.mu.Unlock()
	o.signal()
	return true, true
}

func (o *outgoing) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// attach makes conn the one to write to.
func (o *outgoing) attach(conn net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	if o.conn != nil {
		o.conn.Close()
		o.p.lg.Warn("closed TCP streaming connection with remote peer", zap.String("stream-writer-type", o.kind))
	}
	o.conn = conn
	o.p.lg.Info("established TCP streaming connection with remote peer", zap.String("stream-writer-type", o.kind))
	return true
}

// take returns what is queued for conn; false when conn is no longer the one.
func (o *outgoing) take(conn net.Conn) ([]raftpb.Message, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conn != conn {
		o.signal() // it was meant for the other one
		return nil, false
	}
	clear(o.spare)
	if cap(o.spare) > streamQueue/4 {
		o.spare = nil
	}
	o.queue, o.spare = o.spare[:0], o.queue
	return o.spare, true
}

// detach gives conn up, and what was queued for it.
func (o *outgoing) detach(conn net.Conn, err error) {
	conn.Close()
	o.mu.Lock()
	if o.conn != conn {
		o.mu.Unlock()
		return
	}
	o.conn, o.queue = nil, nil
	o.mu.Unlock()
	o.signal()
	o.p.status.deactivate(o.kind, err)
	o.p.lg.Warn("lost TCP streaming connection with remote peer", zap.String("stream-writer-type", o.kind), zap.Error(err))
	if o.p.ctx.Err() == nil {
		o.p.metrics.sentFailures.Inc()
		o.p.t.o.Handler.ReportUnreachable(o.p.id)
	}
}

// close ends the stream for good.
func (o *outgoing) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	if o.conn != nil {
		o.conn.Close()
		o.conn = nil
	}
	o.queue = nil
	o.signal()
}

// serve writes to conn until it fails, is replaced, or the peer ends.
func (o *outgoing) serve(conn net.Conn) {
	if !o.attach(conn) {
		conn.Close()
		return
	}
	o.p.status.activate()
	o.p.t.wg.Go(func() { o.watch(conn) })
	w := chunkWriter{conn: &timedConn{Conn: conn, write: ioTimeout}, enc: o.encoder(), peer: o.p}
	beat := time.NewTicker(linkHeartbeat)
	defer beat.Stop()
	for {
		var err error
		select {
		case <-o.wake:
			msgs, mine := o.take(conn)
			if !mine {
				return
			}
			err = w.write(msgs)
		case <-beat.C:
			err = w.write([]raftpb.Message{linkBeat})
		case <-o.p.ctx.Done():
			return
		}
		if err != nil {
			o.detach(conn, err)
			return
		}
	}
}

// watch notices at once when the peer is gone, instead of at the second write after
// that: what is written until then is lost. The peer itself has nothing to say here.
func (o *outgoing) watch(conn net.Conn) {
	var b [1]byte
	for {
		n, err := conn.Read(b[:])
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			continue // of the listener, which is for those who wait for something
		}
		if n > 0 {
			err = errTalks
		}
		if err != nil {
			o.detach(conn, err)
			return
		}
	}
}

var errTalks = errors.New("the peer writes on a stream that it reads")

// chunkWriter encodes a batch into one buffer and writes it as one chunk of HTTP's
// chunked encoding, header and end included: one system call a batch.
type chunkWriter struct {
	conn net.Conn
	enc  encoder
	peer *peer
	buf  []byte
}

// chunkHeader is the room for the size of a chunk in hex and the end of its line.
const chunkHeader = 16 + 2

func (w *chunkWriter) write(msgs []raftpb.Message) error {
	for len(msgs) > 0 {
		b := append(w.buf[:0], make([]byte, chunkHeader)...)
		for len(msgs) > 0 && len(b) < writeBatch {
			grown, err := w.enc.append(b, &msgs[0])
			if err != nil {
				return err
			}
			b, msgs = grown, msgs[1:]
		}
		size := len(b) - chunkHeader
		var hex [chunkHeader]byte
		head := append(strconv.AppendUint(hex[:0], uint64(size), 16), '\r', '\n')
		start := chunkHeader - len(head)
		copy(b[start:], head)
		b = append(b, '\r', '\n')
		if w.buf = b; cap(b) > keepBuffer {
			w.buf = nil
		}
		if _, err := w.conn.Write(b[start:]); err != nil {
			return err
		}
		w.peer.metrics.sent.Add(float64(size))
	}
	return nil
}
