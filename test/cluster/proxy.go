package cluster

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
)

// links knows which members are cut off from each other. Proxies ask it before
// they pass a byte, and are told when it changes.
type links struct {
	mu    sync.Mutex
	down  map[[2]uint64]bool
	conns map[*pipe]bool
	owner map[string]uint64 // member id by the proxy's listening address
}

func newLinks() *links {
	return &links{down: map[[2]uint64]bool{}, conns: map[*pipe]bool{}, owner: map[string]uint64{}}
}

// own records which member stands behind a proxy.
func (l *links) own(address string, id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owner[address] = id
}

func (l *links) cut(a, b uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down[[2]uint64{a, b}], l.down[[2]uint64{b, a}] = true, true
	for p := range l.conns {
		if l.blocked(p) {
			p.close()
		}
	}
}

func (l *links) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.down)
}

// blocked is called with mu held. A connection that does not say who it comes
// from is let through only while nobody is cut off from the target.
func (l *links) blocked(p *pipe) bool {
	to := l.owner[p.to]
	if p.from != 0 {
		return l.down[[2]uint64{p.from, to}]
	}
	for k := range l.down {
		if k[1] == to {
			return true
		}
	}
	return false
}

// admit registers a connection, or refuses it when its link is down.
func (l *links) admit(p *pipe) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.blocked(p) {
		return false
	}
	l.conns[p] = true
	return true
}

func (l *links) forget(p *pipe) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, p)
}

// pipe is one proxied connection.
type pipe struct {
	from uint64 // member id; 0 when the request does not say
	to   string // the proxy's listening address
	a, b net.Conn
}

func (p *pipe) close() {
	_ = p.a.Close()
	_ = p.b.Close()
}

// proxy stands in front of one member's peer port. It reads who a connection
// comes from in the first request's X-Server-From header.
type proxy struct {
	links  *links
	ln     net.Listener
	target string
	wg     sync.WaitGroup
}

func newProxy(t testing.TB, l *links, listen, target string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	p := &proxy{links: l, ln: ln, target: target}
	p.wg.Add(1)
	go p.accept()
	return p
}

func (p *proxy) accept() {
	defer p.wg.Done()
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			p.serve(c)
		}()
	}
}

// serve copies both ways until either side ends or the link is cut.
func (p *proxy) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	var head bytes.Buffer
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(r, &head)))
	if err != nil {
		return
	}
	from, _ := strconv.ParseUint(req.Header.Get("X-Server-From"), 16, 64)
	up, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	pp := &pipe{from: from, to: p.ln.Addr().String(), a: c, b: up}
	defer pp.close()
	if !p.links.admit(pp) {
		return
	}
	defer p.links.forget(pp)
	done := make(chan struct{}, 2)
	go func() {
		_, _ = io.Copy(up, io.MultiReader(&head, r))
		pp.close()
		done <- struct{}{}
	}()
	_, _ = io.Copy(c, up)
	pp.close()
	<-done
}

func (p *proxy) close() {
	_ = p.ln.Close()
	p.links.mu.Lock()
	for c := range p.links.conns {
		c.close()
	}
	p.links.mu.Unlock()
	p.wg.Wait()
}
