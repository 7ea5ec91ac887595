package h2

import (
	"encoding/binary"
	"net"
	"sync"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/metadata"
)

// outbuf is what waits for one write to the socket: frames in b, with larger
// payload referenced instead of copied.
type outbuf struct {
	b    []byte
	refs []ref
	n    int // bytes, refs included
}

// ref is payload that goes after b[:at].
type ref struct {
	at int
	p  []byte
}

func (o *outbuf) reset() {
	o.b, o.n = o.b[:0], 0
	clear(o.refs)
	o.refs = o.refs[:0]
}

// frame appends a frame header.
func (o *outbuf) frame(t http2.FrameType, flags http2.Flags, id uint32, length int) {
	o.b = append(o.b, byte(length>>16), byte(length>>8), byte(length), byte(t), byte(flags),
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
	o.n += 9
}

// copy appends payload that may change afterwards.
func (o *outbuf) copy(p []byte) {
	if len(o.b)+len(p) > cap(o.b) {
		o.grow(len(p))
	}
	o.b = append(o.b, p...)
	o.n += len(p)
}

// grow makes room for n more bytes. A buffer that outgrows what a connection keeps is
// exchanged for one of the largest size at once: growing step by step would copy, and
// leave to the collector, several times what is sent.
func (o *outbuf) grow(n int) {
	if len(o.b)+n <= pooledBytes || len(o.b)+n > largeBytes {
		return // append does it
	}
	large := largeBufs.Get().(*[]byte)
	o.b = append((*large)[:0], o.b...)
}

// largeBufs holds grown buffers of connections that have nothing to write, for
// those that have.
var largeBufs = sync.Pool{New: func() any { b := make([]byte, 0, largeBytes); return &b }}

// refer appends payload that nobody changes until it has been written.
func (o *outbuf) refer(p []byte) {
	o.refs = append(o.refs, ref{len(o.b), p})
	o.n += len(p)
}

// buffers lists o's bytes in order, for a gathering write.
func (o *outbuf) buffers(dst net.Buffers) net.Buffers {
	from := 0
	for _, r := range o.refs {
		if r.at > from {
			dst = append(dst, o.b[from:r.at])
			from = r.at
		}
		dst = append(dst, r.p)
	}
	if from < len(o.b) {
		dst = append(dst, o.b[from:])
	}
	return dst
}

func (o *outbuf) windowUpdate(id, n uint32) {
	o.frame(http2.FrameWindowUpdate, 0, id, 4)
	o.uint32(n)
}

func (o *outbuf) rst(id uint32, code http2.ErrCode) {
	o.frame(http2.FrameRSTStream, 0, id, 4)
	o.uint32(uint32(code))
}

func (o *outbuf) ping(ack bool, data [8]byte) {
	var flags http2.Flags
	if ack {
		flags = http2.FlagPingAck
	}
	o.frame(http2.FramePing, flags, 0, 8)
	o.copy(data[:])
}

func (o *outbuf) goAway(last uint32, code http2.ErrCode, debug string) {
	o.frame(http2.FrameGoAway, 0, 0, 8+len(debug))
	o.uint32(last)
	o.uint32(uint32(code))
	o.copy([]byte(debug))
}

func (o *outbuf) settings(list ...http2.Setting) {
	o.frame(http2.FrameSettings, 0, 0, 6*len(list))
	for _, s := range list {
		o.copy([]byte{byte(s.ID >> 8), byte(s.ID)})
		o.uint32(s.Val)
	}
}

func (o *outbuf) uint32(v uint32) {
	o.b = binary.BigEndian.AppendUint32(o.b, v)
	o.n += 4
}

// headers appends a header block as HEADERS and, where it does not fit the
// peer's frame size, CONTINUATION frames.
func (o *outbuf) headers(id uint32, block []byte, end bool, maxFrame int) {
	flags := http2.Flags(0)
	if end {
		flags = http2.FlagHeadersEndStream
	}
	t := http2.FrameHeaders
	for len(block) > maxFrame {
		o.frame(t, flags, id, maxFrame)
		o.copy(block[:maxFrame])
		block, t, flags = block[maxFrame:], http2.FrameContinuation, 0
	}
	o.frame(t, flags|http2.FlagHeadersEndHeaders, id, len(block))
	o.copy(block)
}

// Header blocks that never change. They use HPACK's static table and literals
// only, so they mean the same at any time on any connection.
var (
	headBlock     = fixedBlock("")
	headGzipBlock = fixedBlock("gzip")
	tailOKBlock   = appendField(nil, "grpc-status", "0")
)

// fixedBlock is the head of a gRPC response.
func fixedBlock(encoding string) []byte {
	b := appendStatus(nil, 200)
	b = appendField(b, "content-type", "application/grpc")
	if encoding != "" {
		b = appendField(b, "grpc-encoding", encoding)
	}
	return b
}

// appendStatus appends the pseudo header :status.
func appendStatus(b []byte, code int) []byte {
	if code == 200 {
		return append(b, 0x88) // static index 8
	}
	return appendLiteral(append(b, 0x08), string([]byte{ // literal, name of static index 8
		byte('0' + code/100%10), byte('0' + code/10%10), byte('0' + code%10)}))
}

// appendField appends a literal header field that enters no table.
func appendField(b []byte, name, value string) []byte {
	if name == "content-type" {
		b = append(b, 0x0f, 31-15) // name of static index 31, in a 4-bit prefix
	} else {
		b = appendLiteral(append(b, 0x00), name)
	}
	return appendLiteral(b, value)
}

// appendLiteral appends a string literal without Huffman coding (RFC 7541, 5.2).
func appendLiteral(b []byte, s string) []byte {
	n := uint64(len(s))
	if n < 127 {
		b = append(b, byte(n))
	} else {
		b = append(b, 127)
		for n -= 127; n >= 128; n >>= 7 {
			b = append(b, byte(n)|0x80)
		}
		b = append(b, byte(n))
	}
	return append(b, s...)
}

// appendMetadata appends a handler's header or trailer metadata. Names that gRPC
// or HTTP/2 keep to themselves are left out.
func appendMetadata(b []byte, md metadata.MD) []byte {
	for name, values := range md {
		if reservedName(name) || !validName(name) {
			continue
		}
		for _, v := range values {
			b = appendField(b, name, encodeMetadata(name, v))
		}
	}
	return b
}
