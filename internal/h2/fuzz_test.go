package h2

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// script is a connection whose peer says in and takes everything.
type script struct {
	in      io.Reader
	written int
}

func (s *script) Read(b []byte) (int, error)       { return s.in.Read(b) }
func (s *script) Write(b []byte) (int, error)      { s.written += len(b); return len(b), nil }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// sayFrames builds what a client sends after its preface.
func sayFrames(do func(p *peerConn)) []byte {
	var b bytes.Buffer
	p := &peerConn{fr: http2.NewFramer(&b, nil)}
	p.fr.AllowIllegalWrites = true
	p.enc = hpack.NewEncoder(&p.buf)
	p.fr.WriteSettings()
	do(p)
	return b.Bytes()
}

func FuzzFrames(f *testing.F) {
	f.Add(sayFrames(func(p *peerConn) { p.headers(1, false, request()...); p.fr.WriteData(1, true, message("hi")) }))
	f.Add(sayFrames(func(p *peerConn) {
		p.headers(1, false, request(":path", "/s.S/Both", "x-bin", "AAEC", "grpc-timeout", "1S")...)
		p.fr.WriteData(1, false, append(message("hi"), message("ho")...))
		p.headers(3, false, request("grpc-encoding", "gzip")...)
		p.fr.WriteData(3, true, append([]byte{1, 0, 0, 0, byte(len(gzipped([]byte("hi"))))}, gzipped([]byte("hi"))...))
		p.fr.WriteWindowUpdate(0, 1000)
		p.fr.WriteWindowUpdate(1, 1000)
		p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 16384})
		p.fr.WriteRSTStream(1, http2.ErrCodeCancel)
		p.fr.WritePing(false, [8]byte{})
		p.headers(5, true, request("content-type", "text/html", ":method", "GET")...)
		p.fr.WriteGoAway(0, 0, []byte("bye"))
	}))
	f.Add(sayFrames(func(p *peerConn) {
		b := p.block(request("a", strings.Repeat("b", 300))...)
		p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:5], PadLength: 3, Priority: http2.PriorityParam{StreamDep: 3}})
		p.fr.WriteContinuation(1, true, b[5:])
		p.fr.WriteDataPadded(1, true, message("hi"), make([]byte, 9))
		p.fr.WritePriority(1, http2.PriorityParam{StreamDep: 7})
	}))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := echoServer(Options{MaxMessageBytes: 1 << 16, Recovered: func(m string, v any, stack []byte) { panic(v) }})
		s.o.HTTP = webEcho
		s.RegisterService(&grpc.ServiceDesc{ServiceName: "s.S", Streams: []grpc.StreamDesc{{StreamName: "Both", ClientStreams: true, ServerStreams: true, Handler: bothEcho}}}, nil)
		nc := &script{in: io.MultiReader(strings.NewReader(http2.ClientPreface), bytes.NewReader(data))}
		c := newConn(s, nc, nil)
		c.serve()
		c.mu.Lock()
		defer c.mu.Unlock()
		// Calls of Never stay unanswered; all else must have left nothing.
		if len(c.streams) != 0 || c.held != 0 || c.queued != 0 || c.writing {
			t.Errorf("left: %d streams, %d held, %d queued, writing %v", len(c.streams), c.held, c.queued, c.writing)
		}
		// Each byte that the peer says must not cost us many to answer.
		if nc.written > 200*len(data)+1000 {
			t.Errorf("%d bytes said, %d answered", len(data), nc.written)
		}
	})
}

func bothEcho(_ any, ss grpc.ServerStream) error {
	for {
		b, err := ss.(*Stream).RecvRaw()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ss.(*Stream).SendRaw([][]byte{b}); err != nil {
			return err
		}
	}
}

// The parser must cut any chunking of a byte sequence as it cuts the whole.
func FuzzMessages(f *testing.F) {
	f.Add(append(message("one"), message("")...), uint8(3))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 1}, uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		run := func(step int) (got []string, failed bool, partial bool) {
			var p parser
			for b := data; len(b) > 0; {
				n := min(max(step, 1), len(b))
				st := p.feed(b[:n], 1<<12, func(msg []byte, compressed bool) *status.Status {
					got = append(got, string(msg))
					return nil
				})
				if st != nil {
					return got, true, false
				}
				b = b[n:]
			}
			return got, false, p.partial()
		}
		a, fa, pa := run(len(data))
		b, fb, pb := run(int(step))
		if strings.Join(a, "\x00|") != strings.Join(b, "\x00|") || fa != fb || pa != pb {
			t.Errorf("whole %q %v %v, in steps of %d %q %v %v", a, fa, pa, step, b, fb, pb)
		}
	})
}

func FuzzMetadata(f *testing.F) {
	f.Add("x-bin", "AAEC", "10S", "text % \xff ü")
	f.Add("x", "AAEC", "99999999H", "")
	f.Fuzz(func(t *testing.T, name, value, timeout, text string) {
		if v, err := decodeMetadata(hpack.HeaderField{Name: name, Value: encodeMetadata(name, value)}); err != nil || v != value {
			t.Errorf("%q %q came back as %q, %v", name, value, v, err)
		}
		decodeMetadata(hpack.HeaderField{Name: name, Value: value})
		if d, err := decodeTimeout(timeout); err == nil && d < 0 {
			t.Errorf("timeout %q is %v", timeout, d)
		}
		enc := encodeMessage(text)
		for i := range len(enc) {
			if enc[i] < ' ' || enc[i] > '~' {
				t.Errorf("message %q encoded as %q", text, enc)
			}
		}
		if utf8.ValidString(text) && percentDecode(enc) != text {
			t.Errorf("message %q came back as %q", text, percentDecode(enc))
		}
		block := appendField(appendField(appendStatus(nil, 418), "content-type", value), "other", text)
		fields, err := hpack.NewDecoder(4096, nil).DecodeFull(block)
		if err != nil || len(fields) != 3 || fields[0].Value != "418" || fields[1].Value != value || fields[2].Value != text {
			t.Errorf("block of %q %q came back as %v, %v", value, text, fields, err)
		}
	})
}

// percentDecode is the dumb reverse of encodeMessage.
func percentDecode(s string) string {
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			b = append(b, byte(strings.IndexByte(hexDigits, s[i+1])<<4|strings.IndexByte(hexDigits, s[i+2])))
			i += 2
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}
