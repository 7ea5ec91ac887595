package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// The checks of each endpoint, by the server's names.
var (
	livez  = []string{"serializable_read"}
	readyz = []string{"data_corruption", "serializable_read", "linearizable_read", "non_learner"}
)

type health struct {
	o                Options
	success, failure prometheus.Counter
	last             *prometheus.GaugeVec
	total            *prometheus.CounterVec
}

// newHealth shares its metrics with the handler of another listener.
func newHealth(o Options) *health {
	h := &health{
		o:       o,
		success: prometheus.NewCounter(prometheus.CounterOpts{Name: "etcd_server_health_success", Help: "The total number of successful health checks"}),
		failure: prometheus.NewCounter(prometheus.CounterOpts{Name: "etcd_server_health_failures", Help: "The total number of failed health checks"}),
		last:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcd_server_healthcheck", Help: "The result of each kind of healthcheck."}, []string{"type", "name"}),
		total:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_server_healthchecks_total", Help: "The total number of each kind of healthcheck."}, []string{"type", "name", "status"}),
	}
	if o.Registerer == nil {
		return h
	}
	h.success = shared(o.Registerer, h.success)
	h.failure = shared(o.Registerer, h.failure)
	h.last = shared(o.Registerer, h.last)
	h.total = shared(o.Registerer, h.total)
	return h
}

func shared[C prometheus.Collector](r prometheus.Registerer, c C) C {
	err := r.Register(c)
	if already, ok := err.(prometheus.AlreadyRegisteredError); ok {
		if have, ok := already.ExistingCollector.(C); ok {
			return have
		}
	}
	return c
}

func (h *health) health(w http.ResponseWriter, r *http.Request) {
	if !getOnly(w, r) {
		return
	}
	q := r.URL.Query()
	reason := h.o.Member.Health(r.Context(), q["exclude"], q.Get("serializable") == "true")
	var answer struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}
	answer.Health, answer.Reason = "true", reason
	if reason != "" {
		answer.Health = "false"
	}
	b, _ := json.Marshal(answer)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if reason != "" {
		h.failure.Inc()
		http.Error(w, string(b), http.StatusServiceUnavailable)
		return
	}
	h.success.Inc()
	_, _ = w.Write(b)
}

// checks serves an endpoint with its checks, and each check below it.
func (h *health) checks(mux *http.ServeMux, endpoint string, names []string) {
	mux.HandleFunc("/"+endpoint, func(w http.ResponseWriter, r *http.Request) { h.answer(w, r, endpoint, names) })
	for _, n := range names {
		mux.HandleFunc("/"+endpoint+"/"+n, func(w http.ResponseWriter, r *http.Request) { h.answer(w, r, endpoint, []string{n}) })
	}
}

func (h *health) answer(w http.ResponseWriter, r *http.Request, endpoint string, names []string) {
	q := r.URL.Query()
	_, verbose := q["verbose"]
	var lines strings.Builder
	failed := false
	for _, n := range names {
		if slices.Contains(q["exclude"], n) {
			fmt.Fprintf(&lines, "[+]%s excluded: ok\n", n)
			continue
		}
		err := h.o.Member.Check(r.Context(), n)
		h.record(endpoint, n, err)
		if err != nil {
			failed = true
			fmt.Fprintf(&lines, "[-]%s failed: %s\n", n, err)
			continue
		}
		fmt.Fprintf(&lines, "[+]%s ok\n", n)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch {
	case failed:
		http.Error(w, lines.String(), http.StatusServiceUnavailable)
	case verbose:
		_, _ = fmt.Fprintf(w, "%sok\n", lines.String())
	default:
		_, _ = fmt.Fprintln(w, "ok")
	}
}

func (h *health) record(endpoint, name string, err error) {
	value, status := 1.0, "success"
	if err != nil {
		value, status = 0, "error"
	}
	h.last.WithLabelValues(endpoint, name).Set(value)
	h.total.WithLabelValues(endpoint, name, status).Inc()
}
