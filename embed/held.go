package embed

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"theseus/httpapi"
	"theseus/rpc"
	"theseus/server"
)

// Clocks of a member that is held.
const (
	waitPoll = 100 * time.Millisecond // members that are founded together come within moments
	lossPoll = time.Second
	// waitSay is how often the log tells who is waited for, holdSay how often it repeats
	// why a member does not start.
	waitSay = 5 * time.Second
	holdSay = time.Minute
)

// hold is the face of a member that is not let into its cluster: every port answers, and
// says why.
type hold struct {
	gate   *server.Gate
	front  *rpc.HeldFront
	cancel context.CancelFunc
	done   chan struct{} // closed when the waiting has ended

	mu   sync.Mutex
	why  server.Held
	said time.Time
}

func (h *hold) reason() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return "etcdserver: not ready: " + h.why.Error()
}

// set takes the newest reason and logs it when it is another, or time to repeat it.
func (h *hold) set(why server.Held, lg *zap.Logger) {
	h.mu.Lock()
	again := holdSay
	if len(why.Waiting) > 0 {
		again = waitSay
	}
	say := why.Reason != h.why.Reason || why.Next != h.why.Next || time.Since(h.said) >= again
	if len(why.Waiting) > 0 && len(h.why.Waiting) > 0 {
		say = time.Since(h.said) >= again
	}
	h.why = why
	if say {
		h.said = time.Now()
	}
	h.mu.Unlock()
	switch {
	case !say:
	case len(why.Waiting) > 0:
		lg.Info("waiting for other members before a new cluster is founded", zap.Strings("waiting-for", why.Waiting), zap.String("next", why.Next))
	default:
		lg.Error("this member is not ready and does not take part in its cluster", zap.String("reason", why.Reason), zap.String("next", why.Next))
	}
}

// The member as httpapi sees it while it is held.

// Versions implements httpapi.Member.
func (h *hold) Versions() (server, cluster, storage string) {
	return h.gate.Version(), "not_decided", ""
}

// Health implements httpapi.Member.
func (h *hold) Health(context.Context, []string, bool) string { return h.reason() }

// Check implements httpapi.Member: the process lives, and is not ready.
func (h *hold) Check(_ context.Context, name string) error {
	if name == server.CheckLinearizableRead {
		return errors.New(h.reason())
	}
	return nil
}

// handler answers the client port: health and version as ever, the JSON gateway with the
// reason.
func (h *hold) handler(web http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v3") {
			web.ServeHTTP(w, r)
			return
		}
		b, _ := json.Marshal(map[string]any{"error": h.reason(), "message": h.reason(), "code": 14})
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write(b)
	})
}

// holdAt shows the face and keeps asking in the background.
func (m *Member) holdAt(gate *server.Gate, o server.Options, registry *prometheus.Registry, why server.Held) error {
	ctx, cancel := context.WithCancel(context.Background())
	h := &hold{gate: gate, cancel: cancel, done: make(chan struct{})}
	h.set(why, m.lg)
	h.front = rpc.NewHeldFront(h.reason)
	handlers := m.handlerOptions(h, registry)
	web, err := httpapi.New(handlers)
	if err != nil {
		return err
	}
	m.held = h
	m.web.set(h.handler(web))
	m.metrics.set(httpapi.NewMetrics(handlers))
	m.front.Store(&front{h.front.Serve})
	go func() {
		defer close(h.done)
		m.wait(ctx, h, o, registry)
	}()
	return nil
}

// wait asks the gate until the member is let in or closed.
func (m *Member) wait(ctx context.Context, h *hold, o server.Options, registry *prometheus.Registry) {
	for {
		poll := lossPoll
		h.mu.Lock()
		if len(h.why.Waiting) > 0 {
			poll = waitPoll
		}
		h.mu.Unlock()
		timer := time.NewTimer(poll)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		err := h.gate.Pass(ctx)
		var why *server.Held
		switch {
		case ctx.Err() != nil:
			return
		case errors.As(err, &why):
			h.set(*why, m.lg)
		case err != nil && o.OnDataLoss != server.LossExit:
			h.set(server.Held{Reason: err.Error(), Next: "this process looks again every second"}, m.lg)
		case err != nil:
			m.end(err)
			return
		default:
			if err := m.enter(h.gate, registry); err != nil {
				m.end(err)
			}
			h.front.Stop()
			return
		}
	}
}
