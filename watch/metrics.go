package watch

import "github.com/prometheus/client_golang/prometheus"

// register shows the Hub's counts under the names that etcd gave them. They are
// computed when they are asked for.
func (h *Hub) register() {
	r := h.o.Registerer
	if r == nil {
		return
	}
	gauge := func(name, help string, fn func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "etcd_debugging", Subsystem: "mvcc", Name: name, Help: help,
		}, fn))
	}
	gauge("watch_stream_total", "Total number of watch streams.", h.locked(func() int { return len(h.streams) }))
	gauge("watcher_total", "Total number of watchers.", h.locked(func() int { return h.index.count + h.slow }))
	gauge("slow_watcher_total", "Total number of unsynced slow watchers.", h.locked(func() int { return h.slow }))
	gauge("pending_events_total", "Total number of pending events to be sent.", h.locked(h.pendingEvents))
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "etcd_debugging", Subsystem: "mvcc", Name: "events_total",
		Help: "Total number of events sent by this member.",
	}, func() float64 { return float64(h.eventsSent.Load()) }))
}

func (h *Hub) locked(fn func() int) func() float64 {
	return func() float64 {
		h.mu.Lock()
		defer h.mu.Unlock()
		return float64(fn())
	}
}

func (h *Hub) pendingEvents() (n int) {
	for s := range h.streams {
		s.mu.Lock()
		n += s.events
		s.mu.Unlock()
	}
	return n
}
