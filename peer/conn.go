package peer

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// timedConn has a deadline for each read and write: a peer that is stuck is found
// out, one that is slow is not.
type timedConn struct {
	net.Conn
	read, write time.Duration // 0 for none

	mu    sync.Mutex // orders setting deadlines
	until time.Time  // a read deadline set from outside, zero for none
}

func (c *timedConn) Read(b []byte) (int, error) {
	if c.read > 0 {
		if err := c.readDeadline(time.Now().Add(c.read)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(b)
}

// readDeadline sets the deadline of one read. An earlier one from outside stays: the
// HTTP server sets one in the past to call off a read, when a stream takes over its
// connection, and that read may only be about to begin.
func (c *timedConn) readDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.until.IsZero() && c.until.Before(t) {
		t = c.until
	}
	return c.Conn.SetReadDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *timedConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = t
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *timedConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.Conn.SetWriteDeadline(t)
}

// Write writes in pieces, so that the deadline is for progress and not for all of b.
func (c *timedConn) Write(b []byte) (n int, err error) {
	for {
		piece := b[n:min(len(b), n+writeBatch)]
		if c.write > 0 {
			if err := c.SetWriteDeadline(time.Now().Add(c.write)); err != nil {
				return n, err
			}
		}
		m, err := c.Conn.Write(piece)
		n += m
		if err != nil || n == len(b) {
			return n, err
		}
	}
}

type timedListener struct{ net.Listener }

// Listener gives every connection of l the deadline of etcd's peer listeners: 5 s for
// each read or write, so also 5 s for a connection to be idle.
func Listener(l net.Listener) net.Listener { return timedListener{l} }

func (l timedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &timedConn{Conn: c, read: ioTimeout, write: ioTimeout}, nil
}

// roundTripper dials peers. HTTP/2 is not offered: peers speak HTTP/1.1.
func (o *Options) roundTripper(read, write time.Duration) *http.Transport {
	d := net.Dialer{Timeout: o.DialTimeout, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     o.TLS.Clone(),
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: pipelinePosts,
		IdleConnTimeout:     ioTimeout - time.Second, // before the other side closes it
		ReadBufferSize:      slabBytes,
		WriteBufferSize:     slabBytes,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := d.DialContext(ctx, network, addr)
			if err != nil || read+write == 0 {
				return c, err
			}
			return &timedConn{Conn: c, read: read, write: write}, nil
		},
	}
}
