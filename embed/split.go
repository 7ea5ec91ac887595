package embed

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// preface is how every HTTP/2 connection without TLS begins.
var preface = []byte("PRI * HTTP/2.0")

// sniffTimeout bounds how long a connection may take to say what it speaks.
const sniffTimeout = 10 * time.Second

// frontConn takes a connection that speaks HTTP/2, with the bytes read so far.
type frontConn func(c net.Conn, head []byte)

// splitter shares a client port between gRPC and HTTP/1.1: it looks at how each
// connection begins and hands it to the gRPC front or to the HTTP server.
type splitter struct {
	l     net.Listener
	front frontConn
	http  chan net.Conn
	done  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
}

func newSplitter(l net.Listener, front frontConn) *splitter {
	return &splitter{l: l, front: front, http: make(chan net.Conn), done: make(chan struct{})}
}

// run accepts until the listener is closed.
func (s *splitter) run() {
	defer s.close()
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			s.route(c)
		}()
	}
}

func (s *splitter) route(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		_ = t.SetDeadline(time.Now().Add(sniffTimeout))
		if err := t.Handshake(); err != nil {
			_ = c.Close()
			return
		}
		_ = t.SetDeadline(time.Time{})
		if t.ConnectionState().NegotiatedProtocol == "h2" {
			s.front(c, nil)
			return
		}
		s.toHTTP(c)
		return
	}
	head := make([]byte, len(preface))
	_ = c.SetReadDeadline(time.Now().Add(sniffTimeout))
	n, err := readHead(c, head)
	_ = c.SetReadDeadline(time.Time{})
	switch {
	case err != nil:
		_ = c.Close()
	case bytes.Equal(head[:n], preface):
		s.front(c, head[:n])
	default:
		s.toHTTP(&prefixed{Conn: c, head: head[:n]})
	}
}

// readHead reads until the bytes cannot be HTTP/2's preface any more or all of
// it is there.
func readHead(r io.Reader, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		m, err := r.Read(b[n:])
		n += m
		if !bytes.HasPrefix(preface, b[:n]) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (s *splitter) toHTTP(c net.Conn) {
	select {
	case s.http <- c:
	case <-s.done:
		_ = c.Close()
	}
}

func (s *splitter) close() { s.once.Do(func() { close(s.done) }) }

// Accept, Close and Addr make the HTTP half a listener.
func (s *splitter) Accept() (net.Conn, error) {
	select {
	case c := <-s.http:
		return c, nil
	case <-s.done:
		return nil, http.ErrServerClosed
	}
}

// Close ends the HTTP half.
func (s *splitter) Close() error { s.close(); return nil }

// Addr is the shared address.
func (s *splitter) Addr() net.Addr { return s.l.Addr() }

// prefixed gives back what was read to look at.
type prefixed struct {
	net.Conn
	head []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.head) > 0 {
		n := copy(b, p.head)
		p.head = p.head[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}
