package h2

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"

	"go.uber.org/zap"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/status"
)

// This file serves requests that are not gRPC with Options.HTTP: what a browser or
// curl asks of a TLS port, where it speaks HTTP/2 too.

// body is such a request's body.
type body struct {
	call *Call
	mu   sync.Mutex
	some sync.Cond
	b    []byte
	err  error
}

func (b *body) add(p []byte) {
	c := b.call.c
	c.mu.Lock()
	b.call.untaken += len(p)
	c.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b = append(b.b, p...)
	b.some.Signal()
}

func (b *body) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	b.some.Broadcast()
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	for len(b.b) == 0 && b.err == nil {
		b.some.Wait()
	}
	n := copy(p, b.b)
	b.b = b.b[n:]
	err := b.err
	b.mu.Unlock()
	if n == 0 {
		return 0, err
	}
	b.call.taken(n)
	return n, nil
}

// Close implements io.Closer.
func (b *body) Close() error { return nil }

// openHTTP starts the handler of a request that is not gRPC.
func (c *conn) openHTTP(h *head) error {
	call := &Call{c: c, id: c.hdID, m: &c.srv.web, ctype: h.ctype, agent: h.agent, authority: h.authority}
	call.ctx.call = call
	call.started = true
	call.sendCond = sync.NewCond(&c.mu)
	call.body = &body{call: call}
	call.body.some.L = &call.body.mu
	w := &webWriter{call: call, header: http.Header{}, bare: h.method == http.MethodHead}
	req, err := webRequest(h, call)
	if err != nil {
		return http2.StreamError{StreamID: call.id, Code: http2.ErrCodeProtocol}
	}
	c.wg.Add(1)
	if err := c.open(call); err != nil {
		c.wg.Done()
		return err
	}
	go w.run(req)
	return nil
}

// webRequest makes the http.Request of a header block.
func webRequest(h *head, call *Call) (*http.Request, error) {
	u, err := url.ParseRequestURI(h.path)
	if err != nil {
		return nil, err
	}
	host := h.authority
	if host == "" {
		host = h.host
	}
	r := &http.Request{
		Method: h.method, URL: u, RequestURI: h.path, Host: host,
		Proto: "HTTP/2.0", ProtoMajor: 2, Header: http.Header{},
		Body: call.body, ContentLength: -1, RemoteAddr: call.c.nc.RemoteAddr().String(),
	}
	for _, f := range h.fields {
		r.Header.Add(f.Name, f.Value)
	}
	for name, v := range map[string]string{"Content-Type": h.ctype, "User-Agent": h.agent} {
		if v != "" {
			r.Header.Set(name, v)
		}
	}
	if call.c.hdEnd {
		r.Body, r.ContentLength = http.NoBody, 0
	}
	if tc, ok := call.c.nc.(*tls.Conn); ok {
		state := tc.ConnectionState()
		r.TLS = &state
	}
	return r.WithContext(call.Context()), nil
}

// webWriter is the http.ResponseWriter of such a request.
type webWriter struct {
	call   *Call
	header http.Header
	code   int
	bare   bool // HEAD: no body
	buf    []byte
}

var _ http.Flusher = (*webWriter)(nil)

func (w *webWriter) run(r *http.Request) {
	c := w.call.c
	defer c.wg.Done()
	defer w.finish()
	c.srv.o.HTTP.ServeHTTP(w, r)
}

// finish ends the response, also after a panic.
func (w *webWriter) finish() {
	if v := recover(); v != nil && v != http.ErrAbortHandler {
		w.call.c.srv.o.Logger.Error("handler panicked", zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
		if w.code == 0 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}
	w.WriteHeader(http.StatusOK)
	w.flush()
	call, c := w.call, w.call.c
	c.mu.Lock()
	if call.answered() {
		c.finish(call, nil)
		c.kick()
	}
	c.mu.Unlock()
	call.ctx.end()
}

// Header implements http.ResponseWriter.
func (w *webWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter. Only the first counts.
func (w *webWriter) WriteHeader(code int) {
	if w.code != 0 {
		return
	}
	w.code = code
	block := appendStatus(nil, code)
	for name, values := range w.header {
		name = strings.ToLower(name)
		if connectionName(name) || !validName(name) {
			continue
		}
		for _, v := range values {
			block = appendField(block, name, v)
		}
	}
	c := w.call.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !w.call.reset && !c.broken {
		c.sendHead(w.call, block)
	}
}

// Write implements http.ResponseWriter.
func (w *webWriter) Write(p []byte) (int, error) {
	if w.code == 0 {
		if w.header.Get("Content-Type") == "" {
			w.header.Set("Content-Type", http.DetectContentType(p))
		}
		w.WriteHeader(http.StatusOK)
	}
	w.buf = append(w.buf, p...)
	if len(w.buf) < streamQueueBytes/4 {
		return len(p), nil
	}
	return len(p), w.flush()
}

// Flush implements http.Flusher.
func (w *webWriter) Flush() {
	w.WriteHeader(http.StatusOK)
	w.flush()
}

func (w *webWriter) flush() error {
	call, c := w.call, w.call.c
	p := w.buf
	w.buf = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.kick()
	if len(p) == 0 || w.bare {
		return nil
	}
	for call.queued > streamQueueBytes && !call.reset && !c.broken {
		c.kick()
		call.sendCond.Wait()
	}
	if call.reset || c.broken {
		return status.FromContextError(context.Canceled).Err()
	}
	c.sendData(call, nil, p, true)
	return nil
}

var _ io.ReadCloser = (*body)(nil)
