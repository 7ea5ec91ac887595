package h2

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// head is a request's header block. The reader fills one and reuses it.
type head struct {
	method, path, scheme     string
	authority, host          string
	authorities, hosts       int
	ctype, agent             string
	encoding, accept         string
	timeout                  string
	hasTimeout               bool
	fields                   []hpack.HeaderField // the rest, in order
	bytes                    int
	tooLarge, regular, wrong bool
}

// keptFields is how many fields' room a connection keeps for its next header block.
const keptFields = 64

func (h *head) reset() {
	if cap(h.fields) > keptFields {
		h.fields = nil
	}
	clear(h.fields)
	*h = head{fields: h.fields[:0]}
}

// onHeaders begins a header block: a new call, or trailers of an open one.
func (c *conn) onHeaders(f *http2.HeadersFrame) error {
	c.hd.reset()
	c.hdID, c.hdEnd, c.fragments = f.StreamID, f.StreamEnded(), 0
	if f.HasPriority() && f.Priority.StreamDep == f.StreamID {
		c.hd.wrong = true
	}
	return c.onFragment(f.HeaderBlockFragment(), f.HeadersEnded())
}

// onFragment decodes a part of a header block. Decoding goes on for a block that
// is refused: the header table must stay the same on both sides.
func (c *conn) onFragment(b []byte, last bool) error {
	if c.fragments++; c.fragments > maxHeaderFragments {
		return c.calm("too_many_continuations")
	}
	if _, err := c.dec.Write(b); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	if !last {
		return nil
	}
	if err := c.dec.Close(); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	return c.onBlock()
}

// onField takes one decoded header field. The common names come first.
func (c *conn) onField(f hpack.HeaderField) {
	h := &c.hd
	if h.bytes += int(f.Size()); h.bytes > maxHeaderListBytes {
		h.tooLarge = true
		return
	}
	if f.IsPseudo() {
		h.pseudo(f)
		return
	}
	h.regular = true
	switch f.Name {
	case "content-type":
		h.ctype = f.Value
	case "te":
		h.wrong = h.wrong || f.Value != "trailers"
	case "grpc-timeout":
		h.timeout, h.hasTimeout = f.Value, true
	case "grpc-encoding":
		h.encoding = f.Value
	case "grpc-accept-encoding":
		h.accept = f.Value
	case "user-agent":
		h.agent = f.Value
	case "host":
		h.host = f.Value
		h.hosts++
	default:
		if connectionName(f.Name) || !validName(f.Name) {
			h.wrong = true
			return
		}
		h.fields = append(h.fields, f)
	}
	if !httpguts.ValidHeaderFieldValue(f.Value) {
		h.wrong = true
	}
}

// pseudo takes a field whose name begins with a colon. Each may come once, before
// all others (RFC 9113, 8.3); a second :authority has an answer of its own.
func (h *head) pseudo(f hpack.HeaderField) {
	var to *string
	switch f.Name {
	case ":method":
		to = &h.method
	case ":path":
		to = &h.path
	case ":scheme":
		to = &h.scheme
	case ":authority":
		if h.authorities++; h.authorities > 1 {
			return
		}
		to = &h.authority
	}
	if to == nil || *to != "" || h.regular || !httpguts.ValidHeaderFieldValue(f.Value) {
		h.wrong = true
		return
	}
	*to = f.Value
}

// onBlock acts on a complete header block.
func (c *conn) onBlock() error {
	id := c.hdID
	c.mu.Lock()
	if id <= c.lastID {
		call := c.streams[id]
		c.mu.Unlock()
		return c.onTrailers(id, call)
	}
	if id%2 == 0 {
		c.mu.Unlock()
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.lastID = id
	if c.goneAway { // after the last word nothing new is taken, and nothing said
		c.mu.Unlock()
		return nil
	}
	full := c.full()
	c.mu.Unlock()
	h := &c.hd
	switch {
	case h.tooLarge:
		return c.resetStream(id, http2.ErrCodeFrameSize)
	case h.wrong || h.method == "" || h.path == "" || h.scheme == "":
		return c.resetStream(id, http2.ErrCodeProtocol)
	case full:
		return c.resetStream(id, http2.ErrCodeRefusedStream)
	}
	return c.accept(h)
}

// full tells whether a new stream must be refused. c.mu is held.
func (c *conn) full() bool {
	limit := maxOpenStreams
	if n := c.srv.o.MaxConcurrentStreams; n != 0 && int64(n) < int64(limit) {
		limit = int(n)
	}
	return len(c.streams) >= limit || c.queued > c.srv.maxQueued || c.broken
}

// onTrailers takes a header block of a stream that has been opened before: it must
// end it. On a stream that we have closed it is only an echo.
func (c *conn) onTrailers(id uint32, call *Call) error {
	switch {
	case call == nil && (c.hdEnd && id%2 == 1):
		return c.useless(1)
	case call == nil:
		return http2.ConnectionError(http2.ErrCodeStreamClosed)
	case call.ended:
		return c.resetStream(id, http2.ErrCodeStreamClosed)
	case !c.hdEnd || c.hd.wrong:
		return c.resetStream(id, http2.ErrCodeProtocol)
	}
	return c.onEnd(call)
}

// accept turns a well-formed HTTP/2 request into a call, or answers it at once. The
// order of the checks is grpc-go's, since clients see which comes first.
func (c *conn) accept(h *head) error {
	if h.authorities > 1 || h.hosts > 1 {
		return c.refuse(http.StatusBadRequest, status.Newf(codes.Internal,
			"num values of :authority: %v, num values of host: %v, both must only have 1 value as per HTTP/2 spec", h.authorities, h.hosts))
	}
	if !isGRPC(h.ctype) {
		if c.srv.o.HTTP != nil {
			return c.openHTTP(h)
		}
		return c.refuse(http.StatusUnsupportedMediaType,
			status.Newf(codes.InvalidArgument, "invalid gRPC request content-type %q", h.ctype))
	}
	call := &Call{c: c, id: c.hdID, agent: h.agent, authority: h.authority, ctype: h.ctype, accepts: h.accept}
	call.ctx.call = call
	if h.authority == "" {
		call.authority = h.host
	}
	if st := call.takeHead(h); st != nil {
		return c.refuse(http.StatusBadRequest, st)
	}
	if call.authority == "" && h.authorities == 0 && h.hosts == 0 {
		return c.refuse(http.StatusBadRequest, status.New(codes.Internal, "no host or :authority header present"))
	}
	if h.method != http.MethodPost {
		return c.refuse(http.StatusMethodNotAllowed,
			status.Newf(codes.Internal, "Received a HEADERS frame with :method %q which should be POST", h.method))
	}
	if h.hasTimeout && !time.Now().Before(call.deadline) {
		return c.refuse(http.StatusOK, status.New(codes.DeadlineExceeded, "context deadline exceeded"))
	}
	if c.lastM == nil || h.path != c.lastPath {
		m, st := c.srv.lookup(h.path)
		if m == nil {
			return c.refuse(http.StatusOK, st)
		}
		c.lastPath, c.lastM = h.path, m
	}
	call.m = c.lastM
	if call.enc != "" && call.enc != "gzip" {
		return c.refuse(http.StatusOK, status.Newf(codes.Unimplemented,
			"grpc: Decompressor is not installed for grpc-encoding %q", call.enc))
	}
	return c.open(call)
}

// lookup finds a method, or tells what is unknown in grpc-go's words.
func (s *Server) lookup(path string) (*Method, *status.Status) {
	if m := s.methods[path]; m != nil {
		return m, nil
	}
	service, method, ok := splitPath(path)
	switch {
	case !ok:
		return nil, status.New(codes.Unimplemented, fmt.Sprintf("malformed method name: %q", path))
	case !s.services[service]:
		return nil, status.New(codes.Unimplemented, fmt.Sprintf("unknown service %v", service))
	}
	return nil, status.New(codes.Unimplemented, fmt.Sprintf("unknown method %v for service %v", method, service))
}

// isGRPC tells content types of gRPC: application/grpc, alone or followed by a
// subtype (+proto) or parameters (;...).
func isGRPC(ctype string) bool {
	const base = "application/grpc"
	if ctype == base {
		return true
	}
	if len(ctype) <= len(base) || !strings.EqualFold(ctype[:len(base)], base) {
		return false
	}
	return ctype[len(base)] == '+' || ctype[len(base)] == ';'
}

// takeHead copies what a call keeps of its header block.
func (call *Call) takeHead(h *head) *status.Status {
	if h.encoding != "identity" {
		call.enc = h.encoding
	}
	if h.hasTimeout {
		d, err := decodeTimeout(h.timeout)
		if err != nil {
			return status.Newf(codes.Internal, "malformed grpc-timeout: %v", err)
		}
		if d == math.MaxInt64 {
			d = 1 << 61 // no sum with the clock may overflow
		}
		call.deadline = time.Now().Add(d)
	}
	if len(h.fields) == 0 {
		return nil
	}
	call.fields = append([]hpack.HeaderField(nil), h.fields...)
	for i, f := range call.fields {
		v, err := decodeMetadata(f)
		if err != nil {
			return status.Newf(codes.Internal, "malformed binary metadata %q in header %q: %v", f.Value, f.Name, err)
		}
		call.fields[i].Value = v
	}
	return nil
}

// refuse answers a request that opens no call.
func (c *conn) refuse(httpStatus int, st *status.Status) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	block := appendField(appendStatus(nil, httpStatus), "content-type", "application/grpc")
	block = appendStatusFields(block, st)
	c.sent++
	c.out.headers(c.hdID, block, true, c.maxFrame)
	if !c.hdEnd {
		c.out.rst(c.hdID, http2.ErrCodeNo)
	}
	return c.uselessLocked(1)
}
