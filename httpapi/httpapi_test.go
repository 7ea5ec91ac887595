package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// sick is a member whose state a test sets.
type sick struct {
	reason string
	failed map[string]error
	gave   []string
}

func (s *sick) Versions() (string, string, string) { return "3.7.3", "3.7.0", "3.7.0" }
func (s *sick) Health(_ context.Context, exclude []string, serializable bool) string {
	s.gave = exclude
	if serializable {
		return ""
	}
	return s.reason
}
func (s *sick) Check(_ context.Context, name string) error { return s.failed[name] }

func TestEndpoints(t *testing.T) {
	well := &sick{}
	ill := &sick{reason: "ALARM NOSPACE", failed: map[string]error{"non_learner": errors.New("not supported for learner")}}
	tests := []struct {
		name, method, path string
		member             *sick
		code               int
		body               string
	}{
		{"version", "GET", "/version", well, 200, `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0","theseus":"1"}`},
		{"version post", "POST", "/version", well, 405, "Method Not Allowed\n"},
		{"health", "GET", "/health", well, 200, `{"health":"true","reason":""}`},
		{"health ill", "GET", "/health", ill, 503, `{"health":"false","reason":"ALARM NOSPACE"}` + "\n"},
		{"health serializable", "GET", "/health?serializable=true", ill, 200, `{"health":"true","reason":""}`},
		{"livez", "GET", "/livez", ill, 200, "ok\n"},
		{"readyz", "GET", "/readyz", ill, 503, "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[-]non_learner failed: not supported for learner\n\n"},
		{"readyz excluded", "GET", "/readyz?exclude=non_learner", ill, 200, "ok\n"},
		{"readyz one", "GET", "/readyz/data_corruption?verbose", ill, 200, "[+]data_corruption ok\nok\n"},
		{"readyz unknown", "GET", "/readyz/nosuch", ill, 404, "404 page not found\n"},
		{"no pprof", "GET", "/debug/pprof/", well, 404, "404 page not found\n"},
		{"root", "GET", "/", well, 404, "404 page not found\n"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			h, err := New(Options{Member: tc.member, Gatherer: prometheus.NewRegistry(), CORS: []string{"*"}, HostWhitelist: []string{"*"}, Product: "1"})
			if err != nil {
				t.Fatal(err)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(tc.method, tc.path, nil))
			if w.Code != tc.code || w.Body.String() != tc.body {
				t.Fatalf("got %d %q\nwant %d %q", w.Code, w.Body, tc.code, tc.body)
			}
			if w.Header().Get("Access-Control-Allow-Origin") != "*" {
				t.Error("no CORS header")
			}
		})
	}
}

func TestHostWhitelistAndOrigins(t *testing.T) {
	h, err := New(Options{Member: &sick{}, Gatherer: prometheus.NewRegistry(), CORS: []string{"https://a"}, HostWhitelist: []string{"good"}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	for _, tc := range []struct {
		host, origin, wantOrigin string
		code                     int
	}{{"good:1", "https://a", "https://a", 200}, {"good", "https://b", "", 200}, {"bad", "", "", 421}} {
		req, _ := http.NewRequest(http.MethodGet, srv.URL+"/version", nil)
		req.Host = tc.host
		req.Header.Set("Origin", tc.origin)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != tc.code || resp.Header.Get("Access-Control-Allow-Origin") != tc.wantOrigin {
			t.Errorf("%+v: got %d %q", tc, resp.StatusCode, resp.Header)
		}
		if tc.code == 421 && !strings.HasPrefix(string(body), "etcd received your request, but the Host header was unrecognized.") {
			t.Errorf("got %s", body)
		}
	}
}
