package httpapi

import (
	"context"
	"encoding/json"
	"expvar"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
)

// Member is what the handlers ask of the server.
type Member interface {
	// Versions are the server's, the cluster's and the storage's.
	Versions() (server, cluster, storage string)
	// Health returns "" when healthy, else the reason.
	Health(ctx context.Context, exclude []string, serializable bool) (reason string)
	// Check runs one named check of /livez and /readyz.
	Check(ctx context.Context, name string) error
}

// Options say what is served.
type Options struct {
	Member     Member
	Gatherer   prometheus.Gatherer
	Registerer prometheus.Registerer // of the handlers' own metrics
	// Gateway is a connection to this member's own gRPC API; nil serves no /v3.
	Gateway *grpc.ClientConn
	Pprof   bool
	// CORS are the origins allowed; ["*"] is all. HostWhitelist are the host names
	// accepted on connections without TLS.
	CORS, HostWhitelist []string
	// Product is our own version, shown beside the protocol's in /version.
	Product string
}

// New returns the handler of a client port.
func New(o Options) (http.Handler, error) {
	mux := http.NewServeMux()
	basics(mux, o)
	mux.HandleFunc("/version", o.version)
	mux.Handle("/debug/vars", expvar.Handler())
	if o.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	if o.Gateway != nil {
		gw, err := gateway(o.Gateway)
		if err != nil {
			return nil, err
		}
		mux.Handle("/v3/", gw)
		mux.Handle("/v3beta/", rewrite("/v3beta/", "/v3/", gw))
	}
	return o.guard(mux), nil
}

// NewMetrics returns the handler of --listen-metrics-urls.
func NewMetrics(o Options) http.Handler {
	mux := http.NewServeMux()
	basics(mux, o)
	return mux
}

func basics(mux *http.ServeMux, o Options) {
	h := newHealth(o)
	mux.HandleFunc("/health", h.health)
	h.checks(mux, "livez", livez)
	h.checks(mux, "readyz", readyz)
	mux.Handle("/metrics", metrics(o))
}

func metrics(o Options) http.Handler {
	h := promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{})
	if o.Registerer == nil {
		return h
	}
	return promhttp.InstrumentMetricHandler(o.Registerer, h)
}

// getOnly answers everything but GET as etcd does.
func getOnly(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet {
		return true
	}
	w.Header().Set("Allow", http.MethodGet)
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}

func (o Options) version(w http.ResponseWriter, r *http.Request) {
	if !getOnly(w, r) {
		return
	}
	var v struct {
		Server  string `json:"etcdserver"`
		Cluster string `json:"etcdcluster"`
		Storage string `json:"storage,omitempty"`
		Product string `json:"theseus,omitempty"`
	}
	v.Server, v.Cluster, v.Storage = o.Member.Versions()
	v.Product = o.Product
	b, _ := json.Marshal(v)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

// guard puts the host whitelist and CORS in front of everything.
func (o Options) guard(next http.Handler) http.Handler {
	anyHost := slices.Contains(o.HostWhitelist, "*") || len(o.HostWhitelist) == 0
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !anyHost && r.TLS == nil && !slices.Contains(o.HostWhitelist, hostOf(r.Host)) {
			http.Error(w, hostRefused, http.StatusMisdirectedRequest)
			return
		}
		if o.allowOrigin(w, r) && r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusOK)
			return
		}
		next.ServeHTTP(w, r)
	})
}

const hostRefused = `etcd received your request, but the Host header was unrecognized.

To fix this, add the host name that you used to --host-whitelist of the server,
or reach it over TLS. Host names are checked on plain HTTP to keep web pages of
other hosts from talking to it (CVE-2018-5702).
`

func hostOf(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return h
	}
	return hostport
}

func (o Options) allowOrigin(w http.ResponseWriter, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	switch {
	case slices.Contains(o.CORS, "*"):
		origin = "*"
	case !slices.Contains(o.CORS, origin):
		return r.Method == http.MethodOptions
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Headers", "accept, content-type, authorization")
	return true
}

func rewrite(from, to string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r2 := r.Clone(r.Context())
		r2.URL.Path = to + strings.TrimPrefix(r.URL.Path, from)
		next.ServeHTTP(w, r2)
	})
}
