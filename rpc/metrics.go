package rpc

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"theseus/internal/h2"
)

// requestKind is the label type of etcd_server_client_requests_total.
type requestKind int

const (
	unaryRequest requestKind = iota
	streamRequest
)

// maxVersions bounds the client versions that get a label of their own: the label
// comes from the network. Beyond it they count as "unknown".
const maxVersions = 100

// metrics are the front's. Counters on the path of a hot call are resolved once.
type metrics struct {
	versions atomic.Pointer[map[string]*versionCounters]
	mu       sync.Mutex // of making a new map for versions
	requests *prometheus.CounterVec

	failures  *prometheus.CounterVec
	sendLoop  sendLoopMetrics
	durations *prometheus.HistogramVec
	byMethod  map[*h2.Method]prometheus.Observer
}

type versionCounters [2]prometheus.Counter

// sendLoopMetrics are what a watch stream's sender observes. Responses arrive encoded
// and in batches, so only a batch's duration is known; the other histograms that etcd
// has here are registered for their names and stay empty.
type sendLoopMetrics struct {
	batch prometheus.Observer
	all   []prometheus.Collector
}

func newSendLoopMetrics() sendLoopMetrics {
	var m sendLoopMetrics
	for _, name := range []string{"watch_stream_duration_seconds", "watch_stream_duration_per_event_seconds", "control_stream_duration_seconds", "progress_duration_seconds"} {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "etcd_debugging_server_watch_send_loop_" + name,
			Help:    "The duration in seconds of a run of the watch send loop.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		})
		if m.batch == nil {
			m.batch = h
		}
		m.all = append(m.all, h)
	}
	return m
}

// newMetrics makes the metrics. With a nil registry they count for nobody.
func newMetrics(reg prometheus.Registerer, f *Front) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "etcd_server_client_requests_total",
			Help: "The total number of client requests per client version.",
		}, []string{"type", "client_api_version"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "etcd_network_server_stream_failures_total",
			Help: "The total number of stream failures from the local server.",
		}, []string{"Type", "API"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "grpc_server_handling_seconds",
			Help:    "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
			Buckets: prometheus.DefBuckets,
		}, []string{"grpc_type", "grpc_service", "grpc_method"}),
	}
	m.sendLoop = newSendLoopMetrics()
	m.versions.Store(&map[string]*versionCounters{})
	if reg != nil {
		reg.MustRegister(m.requests, m.failures, &methodCollector{f})
		reg.MustRegister(m.sendLoop.all...)
		if f.o.Extensive {
			reg.MustRegister(m.durations)
		}
	}
	return m
}

// resolve looks up the histogram of every method.
func (m *metrics) resolve(s *h2.Server) {
	m.byMethod = map[*h2.Method]prometheus.Observer{}
	s.Methods(func(x *h2.Method) {
		m.byMethod[x] = m.durations.WithLabelValues(x.Type(), x.Service, x.Name)
	})
}

// handling observes how long a call took.
func (m *metrics) handling(x *h2.Method, took time.Duration) {
	if o := m.byMethod[x]; o != nil {
		o.Observe(took.Seconds())
	}
}

// request counts a request of a client version ("" if it named none).
func (m *metrics) request(kind requestKind, version string) {
	c := (*m.versions.Load())[version]
	if c == nil {
		c = m.newVersion(version)
	}
	c[kind].Inc()
}

func (m *metrics) newVersion(version string) *versionCounters {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := *m.versions.Load()
	if c := old[version]; c != nil {
		return c
	}
	label := version
	if version == "" || len(old) >= maxVersions {
		label = "unknown"
	}
	c := &versionCounters{m.requests.WithLabelValues("unary", label), m.requests.WithLabelValues("stream", label)}
	if len(old) > maxVersions {
		return c
	}
	next := make(map[string]*versionCounters, len(old)+1)
	for k, v := range old {
		next[k] = v
	}
	next[version] = c
	m.versions.Store(&next)
	return c
}

// streamFailed counts a stream that broke: what is "send" or "receive".
func (m *metrics) streamFailed(what, api string) { m.failures.WithLabelValues(what, api).Inc() }

// methodCollector shows the counters that the transport keeps for each method, under
// the names of gRPC's Prometheus interceptor and etcd's codec.
type methodCollector struct{ f *Front }

var (
	methodLabels = []string{"grpc_type", "grpc_service", "grpc_method"}
	startedDesc  = prometheus.NewDesc("grpc_server_started_total",
		"Total number of RPCs started on the server.", methodLabels, nil)
	handledDesc = prometheus.NewDesc("grpc_server_handled_total",
		"Total number of RPCs completed on the server, regardless of success or failure.", append(methodLabels, "grpc_code"), nil)
	receivedDesc = prometheus.NewDesc("grpc_server_msg_received_total",
		"Total number of RPC stream messages received on the server.", methodLabels, nil)
	sentDesc = prometheus.NewDesc("grpc_server_msg_sent_total",
		"Total number of gRPC stream messages sent by the server.", methodLabels, nil)
	receivedBytesDesc = prometheus.NewDesc("etcd_network_client_grpc_received_bytes_total",
		"The total number of bytes received from grpc clients.", nil, nil)
	sentBytesDesc = prometheus.NewDesc("etcd_network_client_grpc_sent_bytes_total",
		"The total number of bytes sent to grpc clients.", nil, nil)
	panicsDesc = prometheus.NewDesc("theseus_rpc_panics_total",
		"Request handlers that panicked; their callers got Internal.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *methodCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{startedDesc, handledDesc, receivedDesc, sentDesc, receivedBytesDesc, sentBytesDesc, panicsDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *methodCollector) Collect(ch chan<- prometheus.Metric) {
	var received, sent uint64
	c.f.h2.Methods(func(m *h2.Method) {
		counter := func(d *prometheus.Desc, v uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{m.Type(), m.Service, m.Name}, labels...)...)
		}
		counter(startedDesc, m.Started.Load())
		counter(receivedDesc, m.Received.Load())
		counter(sentDesc, m.Sent.Load())
		for code := range m.Handled {
			counter(handledDesc, m.Handled[code].Load(), codes.Code(code).String())
		}
		received += m.ReceivedBytes.Load()
		sent += m.SentBytes.Load()
	})
	ch <- prometheus.MustNewConstMetric(receivedBytesDesc, prometheus.CounterValue, float64(received))
	ch <- prometheus.MustNewConstMetric(sentBytesDesc, prometheus.CounterValue, float64(sent))
	ch <- prometheus.MustNewConstMetric(panicsDesc, prometheus.CounterValue, float64(c.f.Panics()))
}
