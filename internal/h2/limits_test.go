package h2

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// Requests that never end may not hold more than their share; the stream that goes
// beyond is reset, and the others go on.
func TestHeldBytes(t *testing.T) {
	s := echoServer(Options{})
	s.maxHeld = 100_000
	p := raw(t, s)
	for id := uint32(1); id < 13; id += 2 {
		p.headers(id, false, request()...)
		p.fr.WriteData(id, false, append([]byte{0, 0, 0x10, 0, 0}, make([]byte, 16_000)...))
	}
	p.headers(13, false, request()...)
	p.fr.WriteData(13, false, append([]byte{0, 0, 0x10, 0, 0}, make([]byte, 16_000)...))
	if got := p.result(13); got != "RST ENHANCE_YOUR_CALM" {
		t.Fatal(got)
	}
	p.fr.WriteRSTStream(1, http2.ErrCodeCancel) // gives its part back
	p.headers(15, false, request()...)
	p.fr.WriteData(15, true, message(strings.Repeat("x", 10_000)))
	if got := p.result(15); !strings.HasSuffix(got, "grpc-status=0") {
		t.Fatal(got)
	}
}

// While answers pile up behind a peer's window, new streams are refused; when it
// opens, everything is sent.
func TestQueuedBytes(t *testing.T) {
	s := echoServer(Options{})
	s.maxQueued = 55_000
	p := rawSilent(t, s)
	io.WriteString(p.nc, http2.ClientPreface)
	p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	for id := uint32(1); id < 13; id += 2 {
		p.headers(id, false, request()...)
		p.fr.WriteData(id, true, message(strings.Repeat("x", 10_000)))
	}
	p.headers(13, false, request()...)
	if got := p.result(13); got != "RST REFUSED_STREAM" {
		t.Fatal(got)
	}
	p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	ended := 0
	for got := 0; ended < 6; {
		switch f := p.next().(type) {
		case *http2.DataFrame:
			got += len(f.Data())
		case *http2.HeadersFrame:
			if f.StreamEnded() {
				ended++
			}
		}
		if ended == 6 && got != 6*10_005 {
			t.Fatal(got)
		}
	}
	p.headers(15, false, request()...)
	p.fr.WriteData(15, true, message("hi"))
	if got := p.result(15); got != ok1 {
		t.Fatal(got)
	}
}

// deaf is a connection whose peer says in again and again and reads nothing.
type deaf struct {
	script
	closed chan struct{}
}

func (d *deaf) Write(b []byte) (int, error) { <-d.closed; return 0, io.ErrClosedPipe }
func (d *deaf) Close() error {
	select {
	case <-d.closed:
	default:
		close(d.closed)
	}
	return nil
}

// endless repeats a client's requests with rising stream ids.
type endless struct {
	buf  bytes.Buffer
	p    *peerConn
	next uint32
	said int
}

func (e *endless) Read(b []byte) (int, error) {
	for e.buf.Len() < len(b) {
		e.p.headers(e.next, false, request()...)
		e.p.fr.WriteData(e.next, true, message("hi"))
		e.next += 2
	}
	n, err := e.buf.Read(b)
	e.said += n
	return n, err
}

// A peer that asks without reading is read no further when its answers have
// reached the limit.
func TestPeerThatDoesNotRead(t *testing.T) {
	e := &endless{next: 1}
	e.p = &peerConn{fr: http2.NewFramer(&e.buf, nil)}
	e.p.enc = newEncoder(e.p)
	e.buf.WriteString(http2.ClientPreface)
	e.p.fr.WriteSettings()
	e.p.fr.WriteWindowUpdate(0, 1<<30)
	d := &deaf{script{in: e}, make(chan struct{})}
	s := echoServer(Options{})
	c := newConn(s, d, nil)
	done := make(chan struct{})
	go func() { defer close(done); c.serve() }()
	waiting := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.out.n
	}
	for waiting() < outStopBytes {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond) // what would go on does
	if n := waiting(); n > 2*outStopBytes {
		t.Errorf("%d bytes wait for the socket", n)
	}
	c.abort()
	<-done
}
