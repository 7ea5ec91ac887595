package h2

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

var (
	errPeerGone = errors.New("h2: connection ended")
	errDrained  = errors.New("h2: drained")
)

// conn is one connection. Fields are the reader's own unless they stand below mu.
type conn struct {
	srv  *Server
	nc   net.Conn
	raw  syscall.RawConn // for writes that do not wait; nil where not possible
	head []byte          // already read from nc
	ctx  context.Context // carries the peer; the parent of calls' contexts
	peer *peer.Peer

	br        *bufio.Reader
	fr        *http2.Framer
	dec       *hpack.Decoder
	hd        head   // the header block being decoded
	hdID      uint32 // its stream; 0: none
	hdEnd     bool   // END_STREAM was set
	fragments int
	lastPath  string  // the path of lastMethod
	lastM     *Method // what the last call looked up
	recvWin   int64   // what the peer may still send
	recvOwed  int     // what it sent since the last WINDOW_UPDATE
	firstRead bool    // the peer's SETTINGS have come
	flood     flood

	reads atomic.Uint64 // frames read, for keepalive

	mu      sync.Mutex
	streams map[uint32]*Call
	lastID  uint32 // highest stream the peer has opened
	orphans int    // handlers running for streams that were reset

	out     outbuf
	spare   outbuf // out's twin while one is being written
	unsent  []byte // rest of an attempt that the socket did not take
	writing bool   // somebody owns the socket's write side
	busy    bool   // the reader is at work and will flush
	corked  bool   // in the server's dirty list
	broken  bool   // nothing more is written
	sent    uint64 // HEADERS and DATA frames sent
	drained sync.Cond

	sendWin  int64 // connection window of the peer
	initWin  int64 // its initial stream window
	maxFrame int   // its largest frame
	ring     ring  // streams with DATA that may be sent
	queued   int64 // bytes in the streams' queues
	held     int64 // bytes of requests not yet complete or not yet taken

	goneAway  bool   // a GOAWAY with the last ID has been sent
	finalID   uint32 // that ID
	draining  bool   // the first GOAWAY of a shutdown has been sent
	closeIdle bool   // end the connection when all is written
	timer     *time.Timer
	pinged    bool   // a keepalive ping is unanswered
	readsThen uint64 // reads when the timer last ran

	tryBuf []byte // arguments and results of attempt; the owner of writing has them
	tryN   int
	tryErr error
	tryFn  func(fd uintptr) bool

	wg sync.WaitGroup // writer and handlers
}

func newConn(s *Server, nc net.Conn, head []byte) *conn {
	c := &conn{
		srv: s, nc: nc, head: head,
		streams: map[uint32]*Call{},
		recvWin: connWindow, sendWin: 65535, initWin: 65535, maxFrame: 16384,
	}
	c.drained.L = &c.mu
	c.dec = hpack.NewDecoder(4096, c.onField)
	c.dec.SetMaxStringLength(maxHeaderListBytes)
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil && canTry {
			c.raw, c.tryFn = raw, c.attempt
		}
	}
	return c
}

// serve runs the connection to its end.
func (c *conn) serve() {
	defer c.wg.Wait()
	err := c.greet()
	if err == nil {
		err = c.read()
	}
	c.end(err)
}

// greet does the handshakes: TLS where nc is TLS, the preface, our SETTINGS.
func (c *conn) greet() error {
	c.nc.SetDeadline(time.Now().Add(handshakeTimeout))
	if err := c.identify(); err != nil {
		return err
	}
	var r io.Reader = c.nc
	if len(c.head) > 0 {
		r = io.MultiReader(bytes.NewReader(c.head), c.nc)
	}
	c.br = bufio.NewReaderSize(r, readBufferBytes)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.br, preface); err != nil {
		return err
	}
	if string(preface) != http2.ClientPreface {
		return errors.New("h2: no HTTP/2 preface")
	}
	c.nc.SetDeadline(time.Time{})
	c.fr = http2.NewFramer(io.Discard, c.br)
	c.fr.SetReuseFrames()
	c.fr.SetMaxReadFrameSize(16384)
	c.hello()
	return nil
}

// identify handshakes TLS and makes the peer that handlers see.
func (c *conn) identify() error {
	c.peer = &peer.Peer{Addr: c.nc.RemoteAddr(), LocalAddr: c.nc.LocalAddr()}
	if tc, ok := c.nc.(*tls.Conn); ok {
		if err := tc.Handshake(); err != nil {
			return fmt.Errorf("tls handshake: %w", err)
		}
		c.peer.AuthInfo = credentials.TLSInfo{
			State:          tc.ConnectionState(),
			CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		}
	}
	c.ctx = peer.NewContext(context.Background(), c.peer)
	return nil
}

// hello queues our SETTINGS and the connection's window, and starts keepalive.
func (c *conn) hello() {
	list := []http2.Setting{
		{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		{ID: http2.SettingMaxHeaderListSize, Val: maxHeaderListBytes},
	}
	if n := c.srv.o.MaxConcurrentStreams; n != 0 {
		list = append(list, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.settings(list...)
	c.out.windowUpdate(0, connWindow-65535)
	c.timer = time.AfterFunc(c.srv.o.KeepaliveTime, c.keepalive)
}

// read is the reader's loop. It flushes when no complete frame waits.
func (c *conn) read() error {
	settled := false
	for {
		if !c.frameWaits() {
			if err := c.settle(); err != nil {
				return err
			}
			settled = true
		}
		fh, err := c.fr.ReadFrameHeader()
		if err != nil {
			return err
		}
		f, err := c.fr.ReadFrameForHeader(fh)
		if settled {
			settled = false
			c.mu.Lock()
			c.busy = true
			c.mu.Unlock()
		}
		if err == nil {
			err = c.onFrame(f)
		}
		if err != nil {
			if err = c.onStreamError(fh, err); err != nil {
				return err
			}
		}
	}
}

// onStreamError resets the stream that err is about, and returns what ends the
// connection: everything else, and errors in header blocks, since those leave
// the header tables of both sides different.
func (c *conn) onStreamError(fh http2.FrameHeader, err error) error {
	var se http2.StreamError
	if !errors.As(err, &se) {
		return err
	}
	if fh.Type == http2.FrameHeaders || fh.Type == http2.FrameContinuation {
		return http2.ConnectionError(se.Code)
	}
	return c.resetStream(se.StreamID, se.Code)
}

// frameWaits tells whether a whole frame can be read without waiting.
func (c *conn) frameWaits() bool {
	n := c.br.Buffered()
	if n < 9 {
		return false
	}
	h, _ := c.br.Peek(3)
	return n >= 9+(int(h[0])<<16|int(h[1])<<8|int(h[2]))
}

func (c *conn) onFrame(f http2.Frame) error {
	if !c.firstRead {
		s, ok := f.(*http2.SettingsFrame)
		if !ok || s.IsAck() {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		c.firstRead = true
	}
	c.reads.Add(1)
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.onData(f)
	case *http2.HeadersFrame:
		return c.onHeaders(f)
	case *http2.ContinuationFrame:
		return c.onFragment(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.WindowUpdateFrame:
		return c.onWindowUpdate(f)
	case *http2.RSTStreamFrame:
		return c.onReset(f)
	case *http2.SettingsFrame:
		return c.onSettings(f)
	case *http2.PingFrame:
		return c.onPing(f)
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol}
		}
		return c.useless(1)
	default: // GOAWAY of the peer, unknown extensions
		return c.useless(1)
	}
}

func (c *conn) onWindowUpdate(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID == 0 {
		c.sendWin += int64(f.Increment)
		if c.sendWin > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		c.pump()
		return c.uselessLocked(1)
	}
	call := c.streams[f.StreamID]
	if call == nil {
		if f.StreamID > c.lastID {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return c.uselessLocked(1)
	}
	call.sendWin += int64(f.Increment)
	if call.sendWin > maxWindow {
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeFlowControl}
	}
	c.enter(call)
	c.pump()
	return c.uselessLocked(1)
}

func (c *conn) onReset(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	call := c.streams[f.StreamID]
	if call == nil {
		idle := f.StreamID > c.lastID
		c.mu.Unlock()
		if idle {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return c.useless(1)
	}
	c.dropLocked(call)
	orphans := c.orphans
	c.mu.Unlock()
	call.cancel(context.Canceled)
	if orphans > maxOrphans || !c.flood.reset() {
		return c.calm("too_many_resets")
	}
	return nil
}

func (c *conn) onSettings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return c.useless(1)
	}
	if f.HasDuplicates() {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := f.ForeachSetting(c.setting); err != nil {
		return err
	}
	c.out.frame(http2.FrameSettings, http2.FlagSettingsAck, 0, 0)
	c.pump()
	return c.uselessLocked(settingsWeight)
}

// setting takes one of the peer's settings. c.mu is held.
func (c *conn) setting(s http2.Setting) error {
	if err := s.Valid(); err != nil {
		return err
	}
	switch s.ID {
	case http2.SettingInitialWindowSize:
		delta := int64(s.Val) - c.initWin
		c.initWin = int64(s.Val)
		for _, call := range c.streams {
			call.sendWin += delta
			if call.sendWin > maxWindow {
				return http2.ConnectionError(http2.ErrCodeFlowControl)
			}
			c.enter(call)
		}
	case http2.SettingMaxFrameSize:
		c.maxFrame = min(int(s.Val), 1<<20)
	}
	return nil // our header blocks use no table, so the table's size is all the same
}

// resetStream resets a stream of which the peer broke the rules.
func (c *conn) resetStream(id uint32, code http2.ErrCode) error {
	c.mu.Lock()
	c.out.rst(id, code)
	call := c.streams[id]
	if call != nil {
		c.dropLocked(call)
	}
	c.mu.Unlock()
	if call != nil {
		call.cancel(context.Canceled)
	}
	return c.useless(1)
}

// dropLocked forgets a stream that was reset from either side; its handler may
// still run.
func (c *conn) dropLocked(call *Call) {
	delete(c.streams, call.id)
	call.reset = true
	c.unqueue(call)
	if call.started && !call.done {
		c.orphans++
	}
	c.release(call)
	c.afterClose()
}

// end finishes the connection after its reader has stopped because of err: it
// tells the peer why, cancels the calls, and closes.
func (c *conn) end(err error) {
	c.mu.Lock()
	if c.closeIdle {
		err = errDrained
	}
	code, text, tell := reasonOf(err, c.fr)
	if c.timer != nil {
		c.timer.Stop()
	}
	if tell && !c.broken {
		if !c.goneAway {
			c.goneAway, c.finalID = true, c.lastID
		}
		c.out.goAway(c.finalID, code, text)
	}
	calls := make([]*Call, 0, len(c.streams))
	for _, call := range c.streams {
		calls = append(calls, call)
		c.dropLocked(call)
	}
	c.closeIdle = false
	c.nc.SetWriteDeadline(time.Now().Add(lingerTime))
	c.startWriter()
	for c.writing {
		c.drained.Wait()
	}
	c.broken = true
	c.drained.Broadcast()
	c.mu.Unlock()
	for _, call := range calls {
		call.cancel(context.Canceled)
	}
	if tell || errors.Is(err, errDrained) {
		c.linger()
	}
	c.nc.Close()
	if tell && code != http2.ErrCodeNo {
		c.srv.o.Logger.Warn("closed client connection", zap.Stringer("remote", c.nc.RemoteAddr()),
			zap.Stringer("code", code), zap.String("reason", text), zap.Error(err))
	}
}

// linger half-closes and reads on for a moment: closing with unread input would
// make the peer's kernel throw our last frames away.
func (c *conn) linger() {
	if h, ok := c.nc.(interface{ CloseWrite() error }); ok {
		h.CloseWrite()
	}
	c.nc.SetReadDeadline(time.Now().Add(lingerTime))
	io.CopyN(io.Discard, c.nc, outStopBytes)
}

// reasonOf tells what to say in GOAWAY, and whether to say anything.
func reasonOf(err error, fr *http2.Framer) (code http2.ErrCode, text string, tell bool) {
	var ce http2.ConnectionError
	var calm calmError
	switch {
	case err == nil, fr == nil, errors.Is(err, io.EOF), errors.Is(err, errDrained):
		return 0, "", false
	case errors.As(err, &calm):
		return http2.ErrCodeEnhanceYourCalm, string(calm), true
	case errors.As(err, &ce):
		if d := fr.ErrorDetail(); d != nil {
			text = d.Error()
		}
		return http2.ErrCode(ce), text, true
	case errors.Is(err, http2.ErrFrameTooLarge), errors.Is(err, io.ErrUnexpectedEOF):
		return http2.ErrCodeFrameSize, "", true
	}
	return 0, "", false // the network failed
}

// abort ends the connection at once, from any goroutine.
func (c *conn) abort() {
	c.mu.Lock()
	c.breakLocked()
	c.mu.Unlock()
}

// breakLocked stops all writing and wakes the reader by closing.
func (c *conn) breakLocked() {
	if c.broken {
		return
	}
	c.broken = true
	c.out.reset()
	c.unsent = nil
	c.drained.Broadcast()
	for _, call := range c.streams {
		call.wakeLocked()
	}
	if tc, ok := c.nc.(*tls.Conn); ok {
		tc.NetConn().Close() // tls.Conn.Close would wait to say goodbye
		return
	}
	c.nc.Close()
}
