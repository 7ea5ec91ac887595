package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"theseus/test/cluster"
)

// httpScript is asked of the client ports of both.
var httpScript = []struct{ method, path, body string }{
	{"GET", "/version", ""}, {"POST", "/version", ""}, {"GET", "/health", ""}, {"POST", "/health", ""},
	{"GET", "/health?serializable=true", ""}, {"GET", "/livez", ""}, {"GET", "/livez?verbose", ""}, {"GET", "/readyz", ""},
	{"GET", "/readyz/data_corruption", ""}, {"GET", "/readyz/nosuch", ""}, {"GET", "/readyz?exclude=data_corruption", ""},
	{"GET", "/", ""}, {"GET", "/nosuch", ""}, {"OPTIONS", "/version", ""}, {"GET", "/debug/pprof/", ""}, {"GET", "/v2/keys/", ""},
	{"POST", "/v3/kv/put", `{"key":"Zm9v","value":"YmFy"}`},
	{"POST", "/v3/kv/range", `{"key":"Zm9v"}`},
	{"POST", "/v3/kv/range", `{}`},
	{"POST", "/v3/kv/range", `{bad`},
	{"GET", "/v3/kv/range", ``},
	{"POST", "/v3/nosuch", `{}`},
	{"POST", "/v3beta/kv/range", `{"key":"Zm9v"}`},
	{"POST", "/v3/kv/txn", `{"compare":[{"target":"CREATE","key":"Zm9v","createRevision":"2"}],"success":[{"requestPut":{"key":"Zm9v","value":"YmFy"}}]}`},
	{"POST", "/v3/kv/deleterange", `{"key":"Zm9v","prev_kv":true}`},
	{"POST", "/v3/lease/grant", `{"TTL":"100","ID":"123"}`},
	{"POST", "/v3/lease/leases", `{}`},
	{"POST", "/v3/lease/keepalive", `{"ID":"123"}`},
	{"POST", "/v3/lease/revoke", `{"ID":"123"}`},
	{"POST", "/v3/lease/revoke", `{"ID":"123"}`},
	{"POST", "/v3/kv/compaction", `{"revision":"100"}`},
	{"POST", "/v3/maintenance/defragment", `{}`},
	{"POST", "/v3/auth/authenticate", `{"name":"a","password":"b"}`},
	{"POST", "/v3/auth/status", `{}`},
	{"POST", "/v3/election/leader", `{"name":"bm8="}`},
	{"POST", "/v3/lock/unlock", `{"key":"bm8="}`},
}

var (
	volatile = regexp.MustCompile(`"(cluster_id|member_id|raft_term)":\s*"[0-9]+",?\s*`)
	// protojson puts spaces where it likes, by the build.
	loose   = strings.NewReplacer(": ", ":", ", ", ",")
	product = regexp.MustCompile(`,"theseus":"[^"]*"`)
)

func httpTranscript(t *testing.T, b cluster.Binary) []string {
	t.Helper()
	c := cluster.New(t, cluster.Options{Binary: b})
	waitVersions(t, c, "3.7") // a member serves before its first cluster version is decided
	cli := http.Client{Timeout: 10 * time.Second}
	var lines []string
	for _, q := range httpScript {
		req, err := http.NewRequest(q.method, c.Members[0].ClientURL()+q.path, bytes.NewReader([]byte(q.body)))
		must(t, err)
		resp, err := cli.Do(req)
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		_ = resp.Body.Close()
		text := loose.Replace(volatile.ReplaceAllString(string(body), ""))
		text = product.ReplaceAllString(text, "")
		if strings.Contains(q.path, "verbose") { // the checks come in no order
			text = fmt.Sprint(len(text))
		}
		h := resp.Header
		lines = append(lines, fmt.Sprintf("%s %s %s\n  %d %q %q %q %q\n  %q", q.method, q.path, q.body, resp.StatusCode,
			h.Get("Content-Type"), h.Get("Allow"), h.Get("Access-Control-Allow-Origin"), h.Get("Grpc-Metadata-Content-Type"), text))
	}
	return lines
}

// TestSameHTTP compares status, headers and bodies of the client port.
func TestSameHTTP(t *testing.T) {
	want := httpTranscript(t, cluster.Etcd(t, "3.7"))
	got := httpTranscript(t, cluster.Theseus(t))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("HTTP differs (-etcd 3.7 +theseus):\n%s", diff)
	}
}

// TestSameMetricNames: every metric that a fresh etcd 3.7 shows is shown by ours,
// but for those of what we do not have.
func TestSameMetricNames(t *testing.T) {
	names := func(b cluster.Binary) map[string]bool {
		c := cluster.New(t, cluster.Options{Binary: b})
		var text string
		must(t, cluster.Eventually(t, func(context.Context) (err error) {
			text, err = c.Members[0].HTTP("/metrics")
			if err == nil && !strings.Contains(text, "etcd_cluster_version{") {
				err = errors.New("the cluster version is not decided yet")
			}
			return err
		}))
		all := map[string]bool{}
		for _, line := range strings.Split(text, "\n") {
			if f := strings.Fields(line); len(f) == 4 && f[0] == "#" && f[1] == "TYPE" {
				all[f[2]+" "+f[3]] = true
			}
		}
		return all
	}
	// What a fresh etcd measures and we have no counterpart of: the stages of a
	// bbolt commit, which hold up nobody here; pauses of an index compaction, which
	// etcd itself has left at zero; the marshalling of a .snap, which is a copy;
	// bbolt read transactions, which are not what reads are made of.
	without := map[string]bool{
		"etcd_debugging_disk_backend_commit_rebalance_duration_seconds histogram":    true,
		"etcd_debugging_disk_backend_commit_spill_duration_seconds histogram":        true,
		"etcd_debugging_disk_backend_commit_write_duration_seconds histogram":        true,
		"etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds histogram": true,
		"etcd_debugging_snap_save_marshalling_duration_seconds histogram":            true,
		"etcd_debugging_snap_save_total_duration_seconds histogram":                  true,
		"etcd_mvcc_db_open_read_transactions gauge":                                  true,
	}
	theirs, ours := names(cluster.Etcd(t, "3.7")), names(cluster.Theseus(t))
	for name := range theirs {
		if ours[name] || without[name] || strings.HasPrefix(name, "etcd_debugging_store_") || strings.HasPrefix(name, "etcd_grpc_proxy_") || strings.HasPrefix(name, "go_") {
			continue // the v2 store and the proxy are not ours; go_ belongs to the Go release
		}
		t.Errorf("metric %s is missing", name)
	}
}
