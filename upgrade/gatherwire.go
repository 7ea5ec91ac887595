package upgrade

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"theseus/upgrade/plan"
	"theseus/version"
)

// maxAnswer bounds what is read of one HTTP answer.
const maxAnswer = 4 << 20

// get asks one HTTP path of a member.
func (g *gatherer) get(ctx context.Context, target string) (body []byte, r *http.Response, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, nil, err
	}
	r, err = g.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = r.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	return body, r, err
}

// versions reads /version and, from the date of the answer, the clock.
func (g *gatherer) versions(ctx context.Context, _ int, m *plan.Member) error {
	asked := time.Now()
	body, r, err := g.get(ctx, m.Endpoint+"/version")
	if err != nil {
		return err
	}
	between := asked.Add(time.Since(asked) / 2)
	if date, err := http.ParseTime(r.Header.Get("Date")); err == nil {
		// The date has no fraction: half a second is the middle of what it may mean.
		if off := date.Add(500 * time.Millisecond).Sub(between).Truncate(time.Second); off != 0 {
			m.ClockOffset = off
		}
	}
	var v struct{ Etcdserver, Etcdcluster, Storage, Theseus string }
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	if s, err := version.Parse(v.Etcdserver); err == nil {
		m.Server = s
	}
	m.Cluster, _ = version.Parse(v.Etcdcluster)
	if s, err := version.Parse(v.Storage); err == nil {
		m.Storage = s
	}
	m.Theseus = v.Theseus
	return nil
}

// health asks /health since 3.4. An older member answers that path by an entry of the
// v2 store in the log, on which real etcd 3.6 ends; it is asked for a linearizable
// read instead, as etcdctl does.
func (g *gatherer) health(ctx context.Context, i int, m *plan.Member) error {
	if m.Theseus == "" && m.Server.Less(version.V3_4) {
		_, err := g.cli[i].Get(ctx, "health")
		if m.Healthy = err == nil || denied(err); !m.Healthy {
			m.Reason = oneLine(err)
		}
		return nil
	}
	body, _, err := g.get(ctx, m.Endpoint+"/health")
	if err != nil {
		m.Reason = oneLine(err)
		return err
	}
	var h struct {
		Health any // "true", or true in some releases
		Reason string
	}
	if err := json.Unmarshal(body, &h); err != nil {
		m.Reason = "its /health is not JSON"
		return err
	}
	m.Healthy, m.Reason = fmt.Sprint(h.Health) == "true", h.Reason
	if !m.Healthy {
		m.Reason = cmp.Or(m.Reason, "/health says "+fmt.Sprint(h.Health))
	}
	return nil
}

// denied says that the member understood and would not, for want of a login.
func denied(err error) bool {
	for _, e := range []error{rpctypes.ErrUserEmpty, rpctypes.ErrPermissionDenied, rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthFailed} {
		if errors.Is(err, e) || err != nil && strings.Contains(err.Error(), strings.TrimPrefix(e.Error(), "etcdserver: ")) {
			return true
		}
	}
	return status.Code(err) == codes.PermissionDenied || status.Code(err) == codes.Unauthenticated
}

// alarms asks those that do not tell their alarms with their status, which is since
// 3.4. The question is an entry in the log, though one that changes nothing.
func (g *gatherer) alarms(ctx context.Context, i int, m *plan.Member) error {
	if m.Theseus != "" || m.Server.AtLeast(version.V3_4) {
		return nil
	}
	r, err := g.cli[i].AlarmList(ctx)
	if err != nil {
		return err
	}
	for _, a := range r.Alarms {
		m.Alarms = append(m.Alarms, plan.Alarm{Member: a.MemberID, Name: a.Alarm.String()})
	}
	return nil
}

// sees asks for the membership without a round of the cluster: what this member has.
func (g *gatherer) sees(ctx context.Context, i int, m *plan.Member) error {
	r, err := g.cli[i].MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return err
	}
	for _, p := range r.Members {
		slices.Sort(p.PeerURLs)
		slices.Sort(p.ClientURLs)
		m.Sees = append(m.Sees, plan.Peer{ID: p.ID, Name: p.Name, Peers: p.PeerURLs, Clients: p.ClientURLs, Learner: p.IsLearner})
	}
	slices.SortFunc(m.Sees, func(a, b plan.Peer) int { return cmp.Compare(a.ID, b.ID) })
	return nil
}

func (g *gatherer) leases(ctx context.Context, i int, m *plan.Member) error {
	r, err := g.cli[i].Leases(ctx)
	if err != nil {
		return err
	}
	m.Leases = len(r.Leases)
	return nil
}

// authed reads a key without a login: a member with auth on refuses that. The RPC made
// for the question is a log entry, on which members before 3.4.31 end.
func (g *gatherer) authed(ctx context.Context, _ int, m *plan.Member) error {
	c, err := g.inv.client("", "", []string{m.Endpoint})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = c.Get(ctx, "theseus-upgrade-auth", clientv3.WithSerializable(), clientv3.WithKeysOnly())
	m.Auth = denied(err)
	return err
}

// metrics takes what Status of older members does not tell.
func (g *gatherer) metrics(ctx context.Context, _ int, m *plan.Member) error {
	body, r, err := g.get(ctx, m.Endpoint+"/metrics")
	if err != nil || r.StatusCode != http.StatusOK {
		return err
	}
	lines := bufio.NewScanner(strings.NewReader(string(body)))
	for lines.Scan() {
		name, text, _ := strings.Cut(lines.Text(), " ")
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			continue
		}
		switch name {
		case "etcd_server_quota_backend_bytes":
			m.Quota = int64(v)
		case "etcd_server_proposals_applied_total":
			m.Applied = cmp.Or(m.Applied, uint64(v))
		case "etcd_mvcc_db_total_size_in_use_in_bytes":
			m.DBInUse = cmp.Or(m.DBInUse, int64(v))
		case "etcd_server_slow_apply_total":
			m.SlowApplies = int64(v)
		case "etcd_server_slow_read_indexes_total":
			m.SlowReads = int64(v)
		case "etcd_server_leader_changes_seen_total":
			m.LeaderChanges = int64(v)
		}
	}
	return nil
}

// v2 looks for keys of users in the v2 store, where the member serves it. The read is
// local: it makes no entry in the log.
func (g *gatherer) v2(ctx context.Context, _ int, m *plan.Member) error {
	if m.Theseus != "" || m.Server.AtLeast(version.V3_6) {
		return nil
	}
	body, r, err := g.get(ctx, m.Endpoint+"/v2/keys/")
	if err != nil || r.StatusCode != http.StatusOK {
		return err
	}
	var v struct {
		Node struct{ Nodes []json.RawMessage }
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	m.V2Keys = len(v.Node.Nodes) > 0
	return nil
}

// hashes asks all members for the hash at one revision that all of them have.
func (g *gatherer) hashes(ctx context.Context) {
	for range 2 { // a compaction between the two rounds makes the first for nothing
		common := int64(0)
		for _, m := range g.facts.Members {
			if m.Err == "" && m.Revision > 0 && (common == 0 || m.Revision < common) {
				common = m.Revision
			}
		}
		again := false
		compacted := make([]bool, len(g.facts.Members))
		g.each(func(i int, m *plan.Member) {
			if m.Err != "" || common == 0 {
				return
			}
			err := bounded(ctx, hashTimeout, func(ctx context.Context) error { return g.hash(ctx, i, m, common) })
			compacted[i] = err != nil && strings.Contains(err.Error(), "compacted")
		})
		if again = slices.Contains(compacted, true); !again {
			return
		}
		g.each(func(i int, m *plan.Member) {
			if m.Err == "" {
				_ = bounded(ctx, askTimeout, func(ctx context.Context) error { return g.status(ctx, i, m) })
			}
		})
	}
}

func (g *gatherer) hash(ctx context.Context, i int, m *plan.Member, rev int64) error {
	r, err := g.cli[i].HashKV(ctx, m.Endpoint, rev)
	if err != nil {
		return err
	}
	m.Compacted = r.CompactRevision
	m.Hash = &plan.Hash{Revision: rev, Compacted: r.CompactRevision, Hash: r.Hash}
	return nil
}

// certificates looks at what the member shows on its client and its peer port.
func (g *gatherer) certificates(ctx context.Context, m *plan.Member) {
	m.ClientCert = expiry(ctx, m.Endpoint)
	for i := range g.facts.Members { // a dead member's peer URL is known to the others
		for _, p := range g.facts.Members[i].Sees {
			if p.ID == m.ID && m.ID != 0 || m.ID == 0 && p.Name == m.Name {
				for _, u := range p.Peers {
					if t := expiry(ctx, u); !t.IsZero() && (m.PeerCert.IsZero() || t.Before(m.PeerCert)) {
						m.PeerCert = t
					}
				}
				return
			}
		}
	}
}

// expiry is the end of the certificate that a server shows; zero when it shows none.
func expiry(ctx context.Context, raw string) (end time.Time) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" {
		return end
	}
	// Nothing is sent over this connection: whom it belongs to is judged elsewhere, and
	// a certificate that has ended must be seen, too.
	conf := &tls.Config{ServerName: u.Hostname(), InsecureSkipVerify: true, MinVersion: tls.VersionTLS12,
		VerifyConnection: func(s tls.ConnectionState) error {
			for _, c := range s.PeerCertificates {
				if end.IsZero() || c.NotAfter.Before(end) {
					end = c.NotAfter
				}
			}
			return nil
		}}
	_ = bounded(ctx, askTimeout, func(ctx context.Context) error {
		d := tls.Dialer{Config: conf, NetDialer: &net.Dialer{}}
		c, err := d.DialContext(ctx, "tcp", u.Host)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	return end
}

// kubernetes asks the API servers for their versions, or takes those that are given.
func (g *gatherer) kubernetes(ctx context.Context) (all []string) {
	for _, a := range g.inv.Kubernetes.APIServers {
		if !strings.Contains(a, "://") {
			all = append(all, strings.TrimPrefix(a, "v"))
			continue
		}
		err := bounded(ctx, askTimeout, func(ctx context.Context) error {
			v, err := apiserver(ctx, a)
			all = append(all, v)
			return err
		})
		if err != nil {
			all[len(all)-1] = "error: " + a + ": " + oneLine(err)
		}
	}
	return all
}

// apiserver asks one for its version. The answer is public and nothing is sent, so
// its certificate, which the inventory has no CA for, is not judged.
func apiserver(ctx context.Context, base string) (string, error) {
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/version", nil)
	if err != nil {
		return "", err
	}
	r, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Body.Close() }()
	var v struct{ GitVersion string }
	if err := json.NewDecoder(io.LimitReader(r.Body, maxAnswer)).Decode(&v); err != nil {
		return "", err
	}
	if v.GitVersion == "" {
		return "", fmt.Errorf("answers %s without a version", r.Status)
	}
	return strings.TrimPrefix(v.GitVersion, "v"), nil
}

// oneLine is what an error says, without the frame that gRPC puts around it.
func oneLine(err error) string {
	if s, ok := status.FromError(err); ok && s.Message() != "" {
		return strings.ReplaceAll(s.Message(), "\n", " ")
	}
	return strings.ReplaceAll(err.Error(), "\n", " ")
}
