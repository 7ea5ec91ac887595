package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"theseus/snap"
)

// postLoop posts messages for which there is no stream.
func (p *peer) postLoop() {
	for {
		select {
		case m := <-p.queue:
			url := p.urls.pick()
			if err := p.post(&m, url); err != nil {
				p.postFailed(&m, url, err)
				continue
			}
			p.status.activate()
			if m.Type == raftpb.MsgSnap {
				p.t.o.Handler.ReportSnapshot(p.id, true)
			}
		case <-p.ctx.Done():
			return
		}
	}
}

func (p *peer) postFailed(m *raftpb.Message, url string, err error) {
	if p.ctx.Err() != nil {
		return
	}
	if errors.Is(err, errRemoved) {
		p.t.isRemoved(p.id)
	}
	p.urls.failed(url)
	p.status.deactivate("pipeline", err)
	p.lost(m)
}

func (p *peer) post(m *raftpb.Message, url string) error {
	b, err := m.Marshal()
	if err != nil {
		return fmt.Errorf("encode %s: %w", m.Type, err)
	}
	ctx, cancel := context.WithTimeout(p.ctx, postTimeout)
	defer cancel()
	req, err := p.request(ctx, http.MethodPost, url, "/raft", bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/protobuf")
	resp, err := p.t.posts.RoundTrip(req)
	if err != nil {
		return err
	}
	if err := posted(resp); err != nil {
		return err
	}
	p.metrics.sent.Add(float64(len(b)))
	return nil
}

// posted judges the answer to a post.
func posted(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusNoContent:
		return resp.Body.Close()
	case http.StatusForbidden:
		err := refusal(resp)
		return fmt.Errorf("%w (%w)", errRemoved, err)
	}
	return refusal(resp)
}

// sendSnapshot posts a snapshot with its database and reports how it ended.
func (p *peer) sendSnapshot(m raftpb.Message, db io.ReadCloser, size int64) {
	defer db.Close()
	to := hexID(p.id)
	p.lg.Info("sending database snapshot", zap.Uint64("snapshot-index", m.Snapshot.Metadata.Index), zap.Int64("bytes", size))
	began := time.Now()
	p.t.metrics.snapSending.WithLabelValues(to).Inc()
	defer p.t.metrics.snapSending.WithLabelValues(to).Dec()
	url := p.urls.pick()
	if err := p.postSnapshot(&m, db, size, url); err != nil {
		p.lg.Warn("failed to send database snapshot", zap.Uint64("snapshot-index", m.Snapshot.Metadata.Index), zap.Error(err))
		p.t.metrics.snapSendFailed.WithLabelValues(to).Inc()
		if errors.Is(err, errRemoved) {
			p.t.isRemoved(p.id)
		}
		p.urls.failed(url)
		p.status.deactivate("snapshot", err)
		p.lost(&m)
		return
	}
	p.lg.Info("sent database snapshot", zap.Uint64("snapshot-index", m.Snapshot.Metadata.Index), zap.Duration("took", time.Since(began)))
	p.status.activate()
	p.metrics.sent.Add(float64(size))
	p.t.metrics.snapSent.WithLabelValues(to).Inc()
	p.t.metrics.snapSendSeconds.WithLabelValues(to).Observe(time.Since(began).Seconds())
	p.t.o.Handler.ReportSnapshot(p.id, true)
}

func (p *peer) postSnapshot(m *raftpb.Message, db io.Reader, size int64, url string) error {
	var head bytes.Buffer
	if err := snap.WriteMessage(&head, *m); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	// The length is not told, so that the body is chunked: a receiver takes any end of
	// the body for the end of the database, so after an error there must be none.
	body := io.MultiReader(&head, &exactReader{r: db, left: size})
	req, err := p.request(ctx, http.MethodPost, url, "/raft/snapshot", struct{ io.Reader }{body})
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := p.t.snaps.RoundTrip(req)
	if err != nil {
		return err
	}
	return posted(resp)
}

// exactReader fails when there are not exactly as many bytes as announced.
type exactReader struct {
	r    io.Reader
	left int64
}

func (e *exactReader) Read(b []byte) (int, error) {
	n, err := e.r.Read(b)
	e.left -= int64(n)
	switch {
	case e.left < 0:
		return n, fmt.Errorf("database image is %d bytes longer than announced", -e.left)
	case err == io.EOF && e.left > 0:
		return n, fmt.Errorf("database image is %d bytes shorter than announced: %w", e.left, io.ErrUnexpectedEOF)
	}
	return n, err
}

// probeLoop measures round trip and clock of the peer; nothing depends on it but
// metrics and a warning.
func (p *peer) probeLoop() {
	for p.wait(probeEvery) {
		drift, err := p.probe()
		if err != nil {
			p.lg.Debug("probing failed", zap.Error(err))
			continue
		}
		if drift.Abs() > maxClockDrift {
			p.lg.Warn("prober found high clock drift", zap.Duration("clock-drift", drift))
		}
	}
}

func (p *peer) probe() (drift time.Duration, err error) {
	url := p.urls.pick()
	if url == "" {
		return 0, errors.New("no url")
	}
	ctx, cancel := context.WithTimeout(p.ctx, probeEvery)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/raft/probing", nil)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	resp, err := p.t.posts.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var health health
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<10)).Decode(&health); err != nil {
		return 0, fmt.Errorf("decode health: %w", err)
	}
	rtt := time.Since(began)
	p.metrics.rtt.Observe(rtt.Seconds())
	return began.Add(rtt / 2).Sub(health.Now), nil
}

// health is the answer to a probe.
type health struct {
	OK  bool
	Now time.Time
}
