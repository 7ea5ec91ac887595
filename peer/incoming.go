package peer

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// errRemoved is a peer's word that this member is no longer in its cluster.
var errRemoved = errors.New("this member has been removed from the cluster")

// stream is a kind of stream that is dialed.
type stream struct {
	name, path string
	decoder    func(r io.Reader, local, remote uint64) decoder
}

var (
	appStream = stream{"stream MsgApp v2", "/raft/stream/msgapp/", func(r io.Reader, local, remote uint64) decoder {
		return newAppDecoder(r, local, remote)
	}}
	messageStream = stream{"stream Message", "/raft/stream/message/", func(r io.Reader, _, _ uint64) decoder {
		return newMessageDecoder(r)
	}}
)

// readLoop dials one kind of stream, reads it to its end, and dials again.
func (p *peer) readLoop(s *stream) {
	for {
		began := time.Now()
		url := p.urls.pick()
		err := p.readStream(s, url)
		if p.ctx.Err() != nil {
			return
		}
		pause := redialEvery
		if errors.Is(err, errRemoved) {
			p.t.isRemoved(p.id)
			pause = time.Second // this member is about to stop
		}
		p.status.deactivate(s.name, err)
		p.urls.failed(url)
		if !p.wait(pause - time.Since(began)) {
			return
		}
	}
}

// readStream dials and reads one stream. It always returns an error.
func (p *peer) readStream(s *stream, url string) error {
	body, err := p.dial(s, url)
	if err != nil {
		return fmt.Errorf("dial %s of %s: %w", s.name, url, err)
	}
	defer body.Close()
	p.status.activate()
	p.lg.Info("established TCP streaming connection with remote peer", zap.String("stream-reader-type", s.name))
	dec := s.decoder(&countedReader{body, p.metrics.received}, p.t.o.ID, p.id)
	for {
		var m raftpb.Message
		if err = dec.next(&m); err != nil {
			break
		}
		if !isLinkHeartbeat(&m) {
			p.process(m)
		}
	}
	if p.ctx.Err() == nil {
		p.lg.Warn("lost TCP streaming connection with remote peer", zap.String("stream-reader-type", s.name), zap.Error(err))
	}
	return fmt.Errorf("read %s: %w", s.name, err)
}

// process hands a message of a stream to the member. What cannot be taken now is
// dropped: raft sends again.
func (p *peer) process(m raftpb.Message) {
	err := errSnapOnStream
	if m.Type != raftpb.MsgSnap {
		dropEmptySnapshot(&m)
		err = p.t.o.Handler.Process(p.ctx, m)
	}
	if err != nil {
		p.metrics.receivedFailures.Inc()
		p.lg.Debug("dropped a received message", zap.Stringer("message-type", m.Type), zap.Error(err))
	}
}

// errSnapOnStream is for a snapshot without its database.
var errSnapOnStream = errors.New("a snapshot came without its database")

// dropEmptySnapshot makes messages of members up to 3.5, which send an empty snapshot
// with every message, like those of later ones.
func dropEmptySnapshot(m *raftpb.Message) {
	if m.Snapshot != nil && raft.IsEmptySnap(*m.Snapshot) {
		m.Snapshot = nil
	}
}

// dial opens a stream.
func (p *peer) dial(s *stream, url string) (io.ReadCloser, error) {
	if url == "" {
		return nil, errors.New("no url")
	}
	req, err := p.request(p.ctx, http.MethodGet, url, s.path+hexID(p.t.o.ID), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Raft-To", hexID(p.id))
	resp, err := p.t.streams.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return resp.Body, nil
	case http.StatusGone:
		resp.Body.Close()
		return nil, errRemoved
	}
	return nil, refusal(resp)
}

// refusal reads why a peer did not do what it was asked for.
func refusal(resp *http.Response) error {
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // the text only helps a reader of logs
	return fmt.Errorf("status %d: %s", resp.StatusCode, strings.TrimSuffix(string(b), "\n"))
}

// countedReader counts the bytes that pass.
type countedReader struct {
	r io.Reader
	c prometheus.Counter
}

func (r *countedReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.c.Add(float64(n))
	return n, err
}
