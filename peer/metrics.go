package peer

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have etcd's names and labels: alerts are part of compatibility.
type metrics struct {
	local                                 string
	active, known                         *prometheus.GaugeVec
	disconnected                          *prometheus.CounterVec
	sentBytes, receivedBytes              *prometheus.CounterVec
	sentFailures, receivedFailures        *prometheus.CounterVec
	rtt                                   *prometheus.HistogramVec
	snapSent, snapSendFailed              *prometheus.CounterVec
	snapReceived, snapReceiveFailed       *prometheus.CounterVec
	snapSending, snapReceiving            *prometheus.GaugeVec
	snapSendSeconds, snapReceivingSeconds *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer, local uint64) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_network_" + name, Help: help}, labels))
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcd_network_" + name, Help: help}, labels))
	}
	histogram := func(name, help string, start float64, count int, label string) *prometheus.HistogramVec {
		return register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "etcd_network_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(start, 2, count),
		}, []string{label}))
	}
	m := &metrics{
		local:                hexID(local),
		active:               gauge("active_peers", "The current number of active peer connections.", "Local", "Remote"),
		known:                gauge("known_peers", "The current number of known peers.", "Local", "Remote"),
		disconnected:         counter("disconnected_peers_total", "The total number of disconnected peers.", "Local", "Remote"),
		sentBytes:            counter("peer_sent_bytes_total", "The total number of bytes sent to peers.", "To"),
		receivedBytes:        counter("peer_received_bytes_total", "The total number of bytes received from peers.", "From"),
		sentFailures:         counter("peer_sent_failures_total", "The total number of send failures from peers.", "To"),
		receivedFailures:     counter("peer_received_failures_total", "The total number of receive failures from peers.", "From"),
		rtt:                  histogram("peer_round_trip_time_seconds", "Round-Trip-Time histogram between peers", 0.0001, 16, "To"),
		snapSent:             counter("snapshot_send_success", "Total number of successful snapshot sends", "To"),
		snapSendFailed:       counter("snapshot_send_failures", "Total number of snapshot send failures", "To"),
		snapSending:          gauge("snapshot_send_inflights_total", "Total number of inflight snapshot sends", "To"),
		snapSendSeconds:      histogram("snapshot_send_total_duration_seconds", "Total latency distributions of v3 snapshot sends", 0.1, 10, "To"),
		snapReceived:         counter("snapshot_receive_success", "Total number of successful snapshot receives", "From"),
		snapReceiveFailed:    counter("snapshot_receive_failures", "Total number of snapshot receive failures", "From"),
		snapReceiving:        gauge("snapshot_receive_inflights_total", "Total number of inflight snapshot receives", "From"),
		snapReceivingSeconds: histogram("snapshot_receive_total_duration_seconds", "Total latency distributions of v3 snapshot receives", 0.1, 10, "From"),
	}
	m.known.WithLabelValues(m.local, m.local).Set(1) // etcd counts the member itself
	return m
}

func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r != nil {
		r.MustRegister(c)
	}
	return c
}

// peerMetrics are those of one peer, looked up once.
type peerMetrics struct {
	active                         prometheus.Gauge
	disconnected, sent, received   prometheus.Counter
	sentFailures, receivedFailures prometheus.Counter
	rtt                            prometheus.Observer
}

func (m *metrics) of(id uint64) *peerMetrics {
	s := hexID(id)
	m.known.WithLabelValues(m.local, s).Set(1)
	return &peerMetrics{
		active: m.active.WithLabelValues(m.local, s), disconnected: m.disconnected.WithLabelValues(m.local, s),
		sent: m.sentBytes.WithLabelValues(s), received: m.receivedBytes.WithLabelValues(s),
		sentFailures: m.sentFailures.WithLabelValues(s), receivedFailures: m.receivedFailures.WithLabelValues(s),
		rtt: m.rtt.WithLabelValues(s),
	}
}

// forget takes back what would show a peer that is gone.
func (m *metrics) forget(id uint64) {
	m.known.DeleteLabelValues(m.local, hexID(id))
	m.active.DeleteLabelValues(m.local, hexID(id))
}

// hexID is an id as etcd prints it.
func hexID(id uint64) string { return strconv.FormatUint(id, 16) }
