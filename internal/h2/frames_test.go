package h2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
)

// peerConn is a client that says exactly what a test wants.
type peerConn struct {
	t   testing.TB
	nc  net.Conn
	fr  *http2.Framer
	buf bytes.Buffer
	enc *hpack.Encoder
	dec *hpack.Decoder
}

// raw serves s over a pipe and has said preface and settings.
func raw(t testing.TB, s *Server) *peerConn {
	t.Helper()
	p := rawSilent(t, s)
	io.WriteString(p.nc, http2.ClientPreface)
	p.fr.WriteSettings()
	return p
}

func rawSilent(t testing.TB, s *Server) *peerConn {
	t.Helper()
	nc, err := net.Dial("tcp", serve(t, s, nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	p := &peerConn{t: t, nc: nc, fr: http2.NewFramer(nc, nc), dec: hpack.NewDecoder(4096, nil)}
	p.fr.AllowIllegalWrites = true
	p.enc = hpack.NewEncoder(&p.buf)
	return p
}

func newEncoder(p *peerConn) *hpack.Encoder { return hpack.NewEncoder(&p.buf) }

// block encodes header fields: name, value, name, value ...
func (p *peerConn) block(kv ...string) []byte {
	p.buf.Reset()
	for i := 0; i < len(kv); i += 2 {
		p.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return append([]byte(nil), p.buf.Bytes()...)
}

// request are the header fields of a good call, with changes: "name", "value" adds
// or replaces, "-name" removes.
func request(changes ...string) []string {
	kv := []string{":method", "POST", ":scheme", "http", ":path", "/s.S/Echo", ":authority", "a", "content-type", "application/grpc", "te", "trailers"}
	for len(changes) > 0 {
		name, drop := strings.CutPrefix(changes[0], "-")
		at := -1
		for i := 0; i < len(kv); i += 2 {
			if kv[i] == name {
				at = i
			}
		}
		switch {
		case drop:
			kv = append(kv[:at:at], kv[at+2:]...)
			changes = changes[1:]
			continue
		case at >= 0:
			kv[at+1] = changes[1]
		default:
			kv = append(kv, changes[0], changes[1])
		}
		changes = changes[2:]
	}
	return kv
}

func (p *peerConn) headers(id uint32, end bool, kv ...string) {
	p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(kv...), EndStream: end, EndHeaders: true})
}

func message(b string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)
}

// next returns the next frame that is about more than windows and settings.
func (p *peerConn) next() http2.Frame {
	p.t.Helper()
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			p.t.Fatalf("read: %v", err)
		}
		switch f.(type) {
		case *http2.SettingsFrame, *http2.WindowUpdateFrame:
			continue
		}
		return f
	}
}

// result reads the answer of a stream: "status=200 grpc-status=0 data=..." or
// what ends it instead.
func (p *peerConn) result(id uint32) string {
	p.t.Helper()
	var out []string
	for {
		switch f := p.next().(type) {
		case *http2.HeadersFrame:
			fields, err := p.dec.DecodeFull(f.HeaderBlockFragment())
			if err != nil {
				p.t.Fatal(err)
			}
			if f.StreamID != id {
				continue
			}
			for _, h := range fields {
				switch h.Name {
				case ":status", "grpc-status", "grpc-message":
					out = append(out, strings.TrimPrefix(h.Name, ":")+"="+h.Value)
				}
			}
			if f.StreamEnded() {
				return strings.Join(out, " ")
			}
		case *http2.DataFrame:
			if f.StreamID == id {
				out = append(out, fmt.Sprintf("data=%q", f.Data()))
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return strings.Join(append(out, "RST "+f.ErrCode.String()), " ")
			}
		case *http2.GoAwayFrame:
			return fmt.Sprintf("GOAWAY %v %s", f.ErrCode, f.DebugData())
		}
	}
}

func echoServer(o Options) *Server {
	s := New(o)
	s.HandleUnary("/s.S/Echo", func(c *Call) { c.Reply(append(c.Buffer(), c.Request()...), nil) })
	s.HandleUnary("/s.S/Never", func(c *Call) {})
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "s.S", Streams: []grpc.StreamDesc{{StreamName: "Deaf", ClientStreams: true,
		Handler: func(_ any, ss grpc.ServerStream) error { <-ss.Context().Done(); return ss.Context().Err() }}}}, nil)
	return s
}

const ok1 = `status=200 data="\x00\x00\x00\x00\x02hi" grpc-status=0`

func TestFrames(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(p *peerConn)
		want string
	}{
		"plain": {func(p *peerConn) { p.headers(1, false, request()...); p.fr.WriteData(1, true, message("hi")) }, ok1},
		"end in empty data": {func(p *peerConn) {
			p.headers(1, false, request()...)
			p.fr.WriteData(1, false, message("hi"))
			p.fr.WriteData(1, true, nil)
		}, ok1},
		"split message": {func(p *peerConn) {
			p.headers(1, false, request()...)
			for i, m := 0, message("hi"); i < len(m); i++ {
				p.fr.WriteData(1, i == len(m)-1, m[i:i+1])
			}
		}, ok1},
		"padded": {func(p *peerConn) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(request()...), EndHeaders: true, PadLength: 9,
				Priority: http2.PriorityParam{StreamDep: 3, Weight: 7}})
			p.fr.WriteDataPadded(1, true, message("hi"), make([]byte, 100))
		}, ok1},
		"continuation": {func(p *peerConn) {
			b := p.block(request()...)
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:3]})
			p.fr.WriteContinuation(1, false, b[3:3])
			p.fr.WriteContinuation(1, true, b[3:])
			p.fr.WriteData(1, true, message("hi"))
		}, ok1},
		"trailers end it": {func(p *peerConn) {
			p.headers(1, false, request()...)
			p.fr.WriteData(1, false, message("hi"))
			p.headers(1, true, "x-trailer", "1")
		}, ok1},
		"trailers without end": {func(p *peerConn) { p.headers(1, false, request()...); p.headers(1, false, "x", "1") }, "RST PROTOCOL_ERROR"},
		"priority and unknown": {func(p *peerConn) {
			p.fr.WritePriority(5, http2.PriorityParam{StreamDep: 3})
			p.fr.WriteRawFrame(0xbb, 3, 1, []byte("??"))
			p.headers(1, false, request()...)
			p.fr.WriteData(1, true, message("hi"))
		}, ok1},
		"proto subtype": {func(p *peerConn) {
			p.headers(1, false, request("content-type", "application/grpc+proto")...)
			p.fr.WriteData(1, true, message("hi"))
		}, ok1},
		"no te": {func(p *peerConn) { p.headers(1, false, request("-te")...); p.fr.WriteData(1, true, message("hi")) }, ok1},
		"host for authority": {func(p *peerConn) {
			p.headers(1, false, request("-:authority", "host", "h")...)
			p.fr.WriteData(1, true, message("hi"))
		}, ok1},
		"identity": {func(p *peerConn) {
			p.headers(1, false, request("grpc-encoding", "identity")...)
			p.fr.WriteData(1, true, message("hi"))
		}, ok1},
		"no message": {func(p *peerConn) { p.headers(1, true, request()...) }, "status=200 grpc-status=13 grpc-message=cardinality violation: received no request message from non-client-streaming RPC"},
		"two messages": {func(p *peerConn) {
			p.headers(1, false, request()...)
			p.fr.WriteData(1, true, append(message("hi"), message("ho")...))
		}, "status=200 grpc-status=13 grpc-message=cardinality violation: received multiple request messages for non-client-streaming RPC"},
		"half a message": {func(p *peerConn) { p.headers(1, false, request()...); p.fr.WriteData(1, true, message("hi")[:6]) }, "status=200 grpc-status=13 grpc-message=unexpected EOF"},
		"half a prefix":  {func(p *peerConn) { p.headers(1, false, request()...); p.fr.WriteData(1, true, message("hi")[:3]) }, "status=200 grpc-status=13 grpc-message=unexpected EOF"},
		"too large": {func(p *peerConn) {
			p.headers(1, false, request()...)
			p.fr.WriteData(1, true, []byte{0, 0x7f, 0, 0, 0})
		}, "status=200 grpc-status=8 grpc-message=grpc: received message larger than max (2130706432 vs. 4194304)"},
		"too large, not ended": {func(p *peerConn) {
			p.headers(1, false, request()...)
			p.fr.WriteData(1, false, []byte{0, 0x7f, 0, 0, 0})
		}, "status=200 grpc-status=8 grpc-message=grpc: received message larger than max (2130706432 vs. 4194304)"},
		"compressed, identity": {func(p *peerConn) {
			p.headers(1, false, request()...)
			p.fr.WriteData(1, true, []byte{1, 0, 0, 0, 1, 9})
		}, "status=200 grpc-status=13 grpc-message=grpc: compressed flag set with identity or empty encoding"},
		"payload format": {func(p *peerConn) {
			p.headers(1, false, request()...)
			p.fr.WriteData(1, true, []byte{7, 0, 0, 0, 1, 9})
		}, "status=200 grpc-status=13 grpc-message=grpc: received unexpected payload format 7"},
		"bad gzip": {func(p *peerConn) {
			p.headers(1, false, request("grpc-encoding", "gzip")...)
			p.fr.WriteData(1, true, []byte{1, 0, 0, 0, 1, 9})
		}, "status=200 grpc-status=13 grpc-message=grpc: failed to decompress the message: unexpected EOF"},
		"unknown encoding":    {func(p *peerConn) { p.headers(1, false, request("grpc-encoding", "snappy")...) }, `status=200 grpc-status=12 grpc-message=grpc: Decompressor is not installed for grpc-encoding "snappy"`},
		"content type":        {func(p *peerConn) { p.headers(1, false, request("content-type", "text/plain")...) }, `status=415 grpc-status=3 grpc-message=invalid gRPC request content-type "text/plain"`},
		"content type prefix": {func(p *peerConn) { p.headers(1, false, request("content-type", "application/grpcx")...) }, `status=415 grpc-status=3 grpc-message=invalid gRPC request content-type "application/grpcx"`},
		"get":                 {func(p *peerConn) { p.headers(1, true, request(":method", "GET")...) }, `status=405 grpc-status=13 grpc-message=Received a HEADERS frame with :method "GET" which should be POST`},
		"no authority":        {func(p *peerConn) { p.headers(1, true, request("-:authority")...) }, `status=400 grpc-status=13 grpc-message=no host or :authority header present`},
		"two hosts":           {func(p *peerConn) { p.headers(1, true, append(request("host", "a"), "host", "b")...) }, `status=400 grpc-status=13 grpc-message=num values of :authority: 1, num values of host: 2, both must only have 1 value as per HTTP/2 spec`},
		"timeout, bad unit":   {func(p *peerConn) { p.headers(1, true, request("grpc-timeout", "5x")...) }, `status=400 grpc-status=13 grpc-message=malformed grpc-timeout: transport: timeout unit is not recognized: "5x"`},
		"timeout, long":       {func(p *peerConn) { p.headers(1, true, request("grpc-timeout", "123456789S")...) }, `status=400 grpc-status=13 grpc-message=malformed grpc-timeout: transport: timeout string is too long: "123456789S"`},
		"timeout, hours": {func(p *peerConn) {
			p.headers(1, false, request("grpc-timeout", "99999999H")...)
			p.fr.WriteData(1, true, message("hi"))
		}, ok1},
		"timeout, zero":    {func(p *peerConn) { p.headers(1, true, request("grpc-timeout", "0n")...) }, `status=200 grpc-status=4 grpc-message=context deadline exceeded`},
		"bad bin":          {func(p *peerConn) { p.headers(1, true, request("x-bin", "!")...) }, `status=400 grpc-status=13 grpc-message=malformed binary metadata "!" in header "x-bin": illegal base64 data at input byte 0`},
		"connection field": {func(p *peerConn) { p.headers(1, true, request("connection", "close")...) }, "RST PROTOCOL_ERROR"},
		"te gzip":          {func(p *peerConn) { p.headers(1, true, request("te", "gzip")...) }, "RST PROTOCOL_ERROR"},
		"upper case":       {func(p *peerConn) { p.headers(1, true, request("Upper", "x")...) }, "RST PROTOCOL_ERROR"},
		"newline in value": {func(p *peerConn) { p.headers(1, true, request("x", "a\nb")...) }, "RST PROTOCOL_ERROR"},
		"no method":        {func(p *peerConn) { p.headers(1, true, request("-:method")...) }, "RST PROTOCOL_ERROR"},
		"no path":          {func(p *peerConn) { p.headers(1, true, request("-:path")...) }, "RST PROTOCOL_ERROR"},
		"unknown pseudo":   {func(p *peerConn) { p.headers(1, true, append([]string{":x", "y"}, request()...)...) }, "RST PROTOCOL_ERROR"},
		"late pseudo":      {func(p *peerConn) { p.headers(1, true, append(request("-:path"), ":path", "/s.S/Echo")...) }, "RST PROTOCOL_ERROR"},
		"pseudo twice":     {func(p *peerConn) { p.headers(1, true, append([]string{":path", "/s.S/Echo"}, request()...)...) }, "RST PROTOCOL_ERROR"},
		"self dependency": {func(p *peerConn) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(request()...), EndHeaders: true, Priority: http2.PriorityParam{StreamDep: 1, Weight: 7}})
		}, "RST PROTOCOL_ERROR"},
		"data after end": {func(p *peerConn) {
			p.headers(1, false, request(":path", "/s.S/Never")...)
			p.fr.WriteData(1, true, message("hi"))
			p.fr.WriteData(1, true, nil)
		}, "RST STREAM_CLOSED"},
		"zero window update":    {func(p *peerConn) { p.headers(1, false, request()...); p.fr.WriteWindowUpdate(1, 0) }, "RST PROTOCOL_ERROR"},
		"stream window too big": {func(p *peerConn) { p.headers(1, false, request()...); p.fr.WriteWindowUpdate(1, 1<<31-1) }, "RST FLOW_CONTROL_ERROR"},
		"large header list":     {func(p *peerConn) { manyFields(p, 1, 300) }, "RST FRAME_SIZE_ERROR"},
		"after refused headers": {func(p *peerConn) {
			manyFields(p, 1, 300)
			p.headers(3, false, request()...)
			p.fr.WriteData(3, true, message("hi"))
		}, "RST FRAME_SIZE_ERROR"},

		"no settings first":     {nil, "GOAWAY PROTOCOL_ERROR "},
		"conn window too big":   {func(p *peerConn) { p.fr.WriteWindowUpdate(0, 1<<31-1) }, "GOAWAY FLOW_CONTROL_ERROR "},
		"conn window zero":      {func(p *peerConn) { p.fr.WriteWindowUpdate(0, 0) }, "GOAWAY PROTOCOL_ERROR "},
		"even stream":           {func(p *peerConn) { p.headers(2, true, request()...) }, "GOAWAY PROTOCOL_ERROR "},
		"data on idle stream":   {func(p *peerConn) { p.fr.WriteData(7, true, nil) }, "GOAWAY PROTOCOL_ERROR "},
		"reset of idle stream":  {func(p *peerConn) { p.fr.WriteRSTStream(7, 0) }, "GOAWAY PROTOCOL_ERROR "},
		"window of idle stream": {func(p *peerConn) { p.fr.WriteWindowUpdate(7, 1) }, "GOAWAY PROTOCOL_ERROR "},
		"data on stream 0":      {func(p *peerConn) { p.fr.WriteData(0, true, nil) }, "GOAWAY PROTOCOL_ERROR DATA frame with stream ID 0"},
		"push promise": {func(p *peerConn) {
			p.fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: p.block("a", "b"), EndHeaders: true})
		}, "GOAWAY PROTOCOL_ERROR "},
		"frame too large": {func(p *peerConn) { p.fr.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 16385)) }, "GOAWAY FRAME_SIZE_ERROR "},
		"bad hpack": {func(p *peerConn) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true})
		}, "GOAWAY COMPRESSION_ERROR "},
		"cut hpack": {func(p *peerConn) {
			b := p.block(request()...)
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:len(b)-1], EndHeaders: true})
		}, "GOAWAY COMPRESSION_ERROR "},
		"continuation alone": {func(p *peerConn) { p.fr.WriteContinuation(1, true, nil) }, "GOAWAY PROTOCOL_ERROR unexpected CONTINUATION for stream 1"},
		"between continuations": {func(p *peerConn) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(request()...)})
			p.fr.WritePing(false, [8]byte{})
		}, "GOAWAY PROTOCOL_ERROR got PING for stream 0; expected CONTINUATION following HEADERS for stream 1"},
		"headers pad too long": {func(p *peerConn) {
			p.fr.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersPadded|http2.FlagHeadersEndHeaders, 1, []byte{9, 0x82})
		}, "GOAWAY PROTOCOL_ERROR "},
		"data pad too long": {func(p *peerConn) {
			p.headers(1, false, request()...)
			p.fr.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, []byte{9, 0})
		}, "GOAWAY PROTOCOL_ERROR pad size larger than data payload"},
		"bad initial window": {func(p *peerConn) { p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}) }, "GOAWAY FLOW_CONTROL_ERROR "},
		"bad frame size":     {func(p *peerConn) { p.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1}) }, "GOAWAY PROTOCOL_ERROR "},
		"short ping":         {func(p *peerConn) { p.fr.WriteRawFrame(http2.FramePing, 0, 0, []byte{1}) }, "GOAWAY FRAME_SIZE_ERROR "},
		"short settings":     {func(p *peerConn) { p.fr.WriteRawFrame(http2.FrameSettings, 0, 0, []byte{1}) }, "GOAWAY FRAME_SIZE_ERROR "},
		"too many pings": {func(p *peerConn) {
			for range 5 {
				p.fr.WritePing(false, [8]byte{})
			}
		}, "GOAWAY ENHANCE_YOUR_CALM too_many_pings"},
		"settings flood": {func(p *peerConn) {
			for range 300 {
				p.fr.WriteSettings()
			}
		}, "GOAWAY ENHANCE_YOUR_CALM too_many_control_frames"},
		"continuation flood": {func(p *peerConn) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(request()...)})
			for range 300 {
				p.fr.WriteContinuation(1, false, nil)
			}
		}, "GOAWAY ENHANCE_YOUR_CALM too_many_continuations"},
		"empty data flood": {func(p *peerConn) {
			p.headers(1, false, request()...)
			for range 10_100 {
				p.fr.WriteData(1, false, nil)
			}
		}, "GOAWAY ENHANCE_YOUR_CALM too_many_control_frames"},
		"rapid reset":           {func(p *peerConn) { rapidReset(p, resetBurst+20_000) }, "GOAWAY ENHANCE_YOUR_CALM too_many_resets"},
		"headers on old stream": {func(p *peerConn) { p.headers(5, true, request(":method", "GET")...); p.headers(3, false, request()...) }, "GOAWAY STREAM_CLOSED "},
		"goaway of the peer": {func(p *peerConn) {
			p.fr.WriteGoAway(0, 0, nil)
			p.headers(1, false, request()...)
			p.fr.WriteData(1, true, message("hi"))
		}, ok1},
		"flow control ignored": {func(p *peerConn) { p.headers(1, false, request(":path", "/s.S/Deaf")...); over(p) }, "RST FLOW_CONTROL_ERROR"},
		"padding counts as data": {func(p *peerConn) {
			p.headers(1, false, request()...)
			p.fr.WriteDataPadded(1, false, message("hi"), make([]byte, 200))
			p.fr.WriteDataPadded(1, true, nil, make([]byte, 200))
		}, ok1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := rawSilent(t, echoServer(Options{}))
			io.WriteString(p.nc, http2.ClientPreface)
			if c.do == nil {
				p.fr.WritePing(false, [8]byte{})
			} else {
				p.fr.WriteSettings()
				go c.do(p)
			}
			if got := p.result(1); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// manyFields sends a header list of n times 4 KiB.
func manyFields(p *peerConn, id uint32, n int) {
	kv := request()
	for i := range n {
		kv = append(kv, fmt.Sprintf("x%d", i), strings.Repeat("v", 4096))
	}
	b := p.block(kv...)
	p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b[:16384]})
	for b = b[16384:]; len(b) > 16384; b = b[16384:] {
		p.fr.WriteContinuation(id, false, b[:16384])
	}
	p.fr.WriteContinuation(id, true, b)
}

func rapidReset(p *peerConn, n int) {
	for i := range n {
		id := uint32(3 + 2*i)
		p.headers(id, false, request()...)
		if p.fr.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			return
		}
	}
}

// over sends more than a stream's window without waiting for updates.
func over(p *peerConn) {
	m := message(strings.Repeat("x", 16000))
	for i := 0; i < 3*streamWindow; i += len(m) {
		if p.fr.WriteData(1, false, m) != nil {
			return
		}
	}
}

// The peer's windows: nothing goes out beyond them, and a change of the initial
// window moves open streams.
func TestPeerWindows(t *testing.T) {
	p := rawSilent(t, echoServer(Options{}))
	io.WriteString(p.nc, http2.ClientPreface)
	p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 3})
	p.headers(1, false, request()...)
	p.fr.WriteData(1, true, message("0123456789"))
	if _, ok := p.next().(*http2.HeadersFrame); !ok {
		t.Fatal("want HEADERS")
	}
	want := message("0123456789")
	for _, step := range []struct {
		n   int
		say func()
	}{
		{3, func() {}},
		{1, func() { p.fr.WriteWindowUpdate(1, 1) }},
		{6, func() { p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 9}) }},
		{0, func() { p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}) }}, // window is -8
		{0, func() { p.fr.WriteWindowUpdate(1, 8) }},
		{5, func() { p.fr.WriteWindowUpdate(1, 5) }},
	} {
		step.say()
		if step.n == 0 {
			continue
		}
		d, ok := p.next().(*http2.DataFrame)
		if !ok || !bytes.Equal(d.Data(), want[:step.n]) {
			t.Fatalf("step %d: got %v", step.n, d)
		}
		want = want[step.n:]
	}
	if h, ok := p.next().(*http2.HeadersFrame); !ok || !h.StreamEnded() {
		t.Fatal("want trailers")
	}
}

// The peer's frame size is kept, larger and smaller.
func TestPeerFrameSize(t *testing.T) {
	p := rawSilent(t, echoServer(Options{}))
	io.WriteString(p.nc, http2.ClientPreface)
	p.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 20_000}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	p.headers(1, false, request()...)
	m := message(strings.Repeat("x", 45_000))
	for ; len(m) > 16384; m = m[16384:] {
		p.fr.WriteData(1, false, m[:16384])
	}
	p.fr.WriteData(1, true, m)
	p.next()
	for _, want := range []int{20_000, 20_000, 5005} {
		if d := p.next().(*http2.DataFrame); len(d.Data()) != want {
			t.Fatalf("frame of %d bytes, want %d", len(d.Data()), want)
		}
	}
}

func TestPing(t *testing.T) {
	p := raw(t, echoServer(Options{}))
	p.fr.WritePing(false, [8]byte{1, 2, 3})
	if f, ok := p.next().(*http2.PingFrame); !ok || !f.IsAck() || f.Data != [8]byte{1, 2, 3} {
		t.Fatal(f)
	}
}

// Pings while a call is open may come every MinPing; each answer forgives.
func TestPingsForgiven(t *testing.T) {
	p := raw(t, echoServer(Options{}))
	for i := range 20 {
		id := uint32(1 + 2*i)
		p.headers(id, false, request()...)
		p.fr.WriteData(id, true, message("hi"))
		if got := p.result(id); got != ok1 {
			t.Fatal(got)
		}
		p.fr.WritePing(false, [8]byte{})
		p.next()
	}
}

func TestServerKeepalive(t *testing.T) {
	p := raw(t, echoServer(Options{KeepaliveTime: 20 * time.Millisecond, KeepaliveTimeout: 50 * time.Millisecond}))
	f := p.next().(*http2.PingFrame)
	p.fr.WritePing(true, f.Data)
	if f := p.next().(*http2.PingFrame); f.IsAck() {
		t.Fatal("want a second ping")
	}
	if _, err := p.fr.ReadFrame(); err != io.EOF && !strings.Contains(fmt.Sprint(err), "reset") {
		t.Fatalf("connection must end: %v", err)
	}
}

// GOAWAY of a shutdown: first the highest ID, then, when that has been seen, the
// last one; calls in between still count, calls after it do not.
func TestGoAway(t *testing.T) {
	s := echoServer(Options{})
	p := raw(t, s)
	p.headers(1, false, request()...)
	p.fr.WritePing(false, [8]byte{9})
	p.next() // the server has seen stream 1
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(short(t)) }()
	if f := p.next().(*http2.GoAwayFrame); f.LastStreamID != 1<<31-1 || f.ErrCode != 0 {
		t.Fatal(f)
	}
	ping := p.next().(*http2.PingFrame)
	p.headers(3, false, request()...)
	p.fr.WritePing(true, ping.Data)
	if f := p.next().(*http2.GoAwayFrame); f.LastStreamID != 3 {
		t.Fatal(f)
	}
	p.headers(5, false, request()...) // too late: no answer
	p.fr.WriteData(5, true, message("hi"))
	p.fr.WriteData(3, true, message("hi"))
	if got := p.result(3); got != ok1 {
		t.Fatal(got)
	}
	p.fr.WriteData(1, true, message("hi"))
	if got := p.result(1); got != ok1 {
		t.Fatal(got)
	}
	if _, err := p.fr.ReadFrame(); err == nil {
		t.Fatal("connection must end")
	}
	if err := <-down; err != nil {
		t.Fatal(err)
	}
}

// A peer that resets streams while they wait leaves nothing behind.
func TestResetLeavesNothing(t *testing.T) {
	s := New(Options{})
	calls := make(chan *Call, 10)
	s.HandleUnary("/s.S/Echo", func(c *Call) { calls <- c })
	p := raw(t, s)
	p.headers(1, false, request()...)
	p.fr.WriteData(1, true, message("hi"))
	call := <-calls
	p.fr.WriteRSTStream(1, http2.ErrCodeCancel)
	p.fr.WritePing(false, [8]byte{})
	p.next()
	c := call.c
	c.mu.Lock()
	orphans, open := c.orphans, len(c.streams)
	c.mu.Unlock()
	if orphans != 1 || open != 0 || !call.Canceled() || call.Context().Err() == nil {
		t.Fatal(orphans, open, call.Canceled())
	}
	call.Reply([]byte("late"), nil)
	p.headers(3, false, request()...)
	p.fr.WriteData(3, true, message("hi"))
	(<-calls).Reply([]byte("hi"), nil)
	if got := p.result(3); got != ok1 {
		t.Fatal(got)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.orphans != 0 || c.held != 0 || c.queued != 0 {
		t.Fatal(c.orphans, c.held, c.queued)
	}
}

// webEcho answers with the body, twice.
var webEcho = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	w.Header().Set("X-Seen", fmt.Sprintf("%s %s %s %d %v", r.Method, r.URL.Path, r.Header.Get("a"), len(b), err))
	w.WriteHeader(http.StatusTeapot)
	w.Write(b)
	w.(http.Flusher).Flush()
	w.Write(b)
})

// Requests that are not gRPC reach the HTTP handler.
func TestHTTP(t *testing.T) {
	s := echoServer(Options{HTTP: webEcho})
	addr := serve(t, s, nil)
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	for _, n := range []int{0, 10, 3 << 20} {
		req, _ := http.NewRequest("PUT", "http://"+addr+"/some/path?q=1", bytes.NewReader(make([]byte, n)))
		req.Header.Set("A", "b")
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || len(got) != 2*n || res.StatusCode != http.StatusTeapot {
			t.Fatal(n, len(got), res.StatusCode, err)
		}
		if want := fmt.Sprintf("PUT /some/path b %d <nil>", n); res.Header.Get("X-Seen") != want {
			t.Errorf("%q, want %q", res.Header.Get("X-Seen"), want)
		}
	}
}

func TestNotHTTP2(t *testing.T) {
	p := rawSilent(t, echoServer(Options{}))
	io.WriteString(p.nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if b, err := io.ReadAll(p.nc); err == nil && len(b) > 0 {
		t.Fatalf("%q %v", b, err)
	}
}

func TestReadAhead(t *testing.T) {
	s := echoServer(Options{})
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); s.ServeConnHead(b, []byte(http2.ClientPreface[:14])) }()
	p := &peerConn{t: t, nc: a, fr: http2.NewFramer(a, a), dec: hpack.NewDecoder(4096, nil)}
	p.enc = hpack.NewEncoder(&p.buf)
	go func() {
		io.WriteString(a, http2.ClientPreface[14:])
		p.fr.WriteSettings()
		p.headers(1, false, request()...)
		p.fr.WriteData(1, true, message("hi"))
	}()
	if got := p.result(1); got != ok1 {
		t.Fatal(got)
	}
	a.Close()
	<-done
}
