package upgrade

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/upgrade/host"
	"theseus/upgrade/plan"
	"theseus/version"
)

// Bounds of what one question may take. A member that hangs costs its own answers only.
const (
	askTimeout   = 5 * time.Second // for one request
	hashTimeout  = 2 * time.Minute // for a hash, which reads the whole database
	hostTimeout  = 30 * time.Second
	stageTimeout = 10 * time.Minute       // an image may have to be fetched
	rateSpan     = 300 * time.Millisecond // the least time over which the write rate is taken
)

// gatherer asks all members at once; every member's answers go into its own line of facts.
type gatherer struct {
	inv   *Inventory
	facts plan.Facts
	cli   []*clientv3.Client // one a member, with the login; nil where none could be made
	http  *http.Client
	began time.Time
}

// Gather asks every member for itself, over the wire and at its host, and changes
// nothing but what Stage puts in place. Without hosts it asks over the wire only. What
// could not be learned stays zero; an error means that nothing could be asked at all.
func Gather(ctx context.Context, inv *Inventory, hosts map[string]host.Executor) (plan.Facts, error) {
	g := &gatherer{inv: inv, began: time.Now()}
	if err := g.open(); err != nil {
		return plan.Facts{}, err
	}
	defer g.close()
	g.each(func(i int, m *plan.Member) { g.member(ctx, i, m) })
	g.hashes(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { g.facts.Kube = g.kubernetes(ctx) })
	wg.Go(func() { g.facts.Backup = archive(inv.Backup.Archive) })
	g.each(func(i int, m *plan.Member) {
		g.certificates(ctx, m)
		if x := hosts[m.Name]; x != nil {
			g.host(ctx, m, x)
		}
	})
	wg.Wait()
	g.rates(ctx)
	g.targets(ctx)
	return g.facts, nil
}

// open makes the clients and the empty lines of facts.
func (g *gatherer) open() error {
	limits, err := g.inv.limits()
	if err != nil {
		return err
	}
	if g.http, err = g.inv.HTTP(); err != nil {
		return err
	}
	g.facts = plan.Facts{Cluster: g.inv.Cluster, Taken: g.began.UTC(), Limits: limits, Login: g.inv.Auth.User != "",
		Members: make([]plan.Member, len(g.inv.Members))}
	g.cli = make([]*clientv3.Client, len(g.inv.Members))
	for i, m := range g.inv.Members {
		g.facts.Members[i] = plan.Member{Name: m.Name, Endpoint: m.Endpoint}
	}
	g.each(func(i int, m *plan.Member) {
		if m.Err = reach(m.Endpoint); m.Err != "" {
			return
		}
		c, err := g.inv.Client(m.Endpoint)
		if err != nil && g.facts.Login { // without quorum nobody can log in; much is told without
			c, err = g.inv.client("", "", []string{m.Endpoint})
		}
		if err != nil {
			m.Err = oneLine(err)
			return
		}
		g.cli[i] = c
	})
	return nil
}

// reach says why an endpoint cannot be connected to. The client would go on trying.
func reach(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return oneLine(err)
	}
	c, err := net.DialTimeout("tcp", u.Host, askTimeout)
	if err != nil {
		return oneLine(err)
	}
	_ = c.Close()
	return ""
}

func (g *gatherer) close() {
	for _, c := range g.cli {
		if c != nil {
			_ = c.Close()
		}
	}
	g.http.CloseIdleConnections()
}

// each runs f for every member at the same time and waits for all.
func (g *gatherer) each(f func(i int, m *plan.Member)) {
	var wg sync.WaitGroup
	for i := range g.facts.Members {
		wg.Go(func() { f(i, &g.facts.Members[i]) })
	}
	wg.Wait()
}

// bounded runs one question with its own time limit.
func bounded(ctx context.Context, limit time.Duration, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	err := f(ctx)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// member asks one member everything that it can answer by itself.
func (g *gatherer) member(ctx context.Context, i int, m *plan.Member) {
	if m.Err != "" {
		return
	}
	if err := bounded(ctx, askTimeout, func(ctx context.Context) error { return g.status(ctx, i, m) }); err != nil {
		m.Err = oneLine(err)
		return
	}
	for _, ask := range []func(context.Context, int, *plan.Member) error{
		g.versions, g.health, g.alarms, g.sees, g.leases, g.authed, g.metrics, g.v2,
	} {
		// What a member cannot or will not answer stays not known.
		_ = bounded(ctx, askTimeout, func(ctx context.Context) error { return ask(ctx, i, m) })
	}
}

// alarmText is an alarm among the errors of a status.
var alarmText = regexp.MustCompile(`^(?:memberID:(\d+)\s*)?alarm:\s*(\w+)`)

func (g *gatherer) status(ctx context.Context, i int, m *plan.Member) error {
	s, err := g.cli[i].Status(ctx, m.Endpoint)
	if err != nil {
		return err
	}
	if s.Header == nil {
		return errors.New("answered without a header: is this an etcd?")
	}
	m.ID, m.ClusterID, m.Leader = s.Header.MemberId, s.Header.ClusterId, s.Leader
	m.Learner, m.Term, m.Revision = s.IsLearner, s.RaftTerm, s.Header.Revision
	m.Index, m.Applied = s.RaftIndex, s.RaftAppliedIndex
	m.DBSize, m.DBInUse, m.Quota = s.DbSize, s.DbSizeInUse, s.DbSizeQuota
	m.Alarms = nil
	for _, e := range s.Errors {
		if a := alarmText.FindStringSubmatch(e); a != nil {
			id, _ := strconv.ParseUint(a[1], 10, 64)
			m.Alarms = append(m.Alarms, plan.Alarm{Member: id, Name: a[2]})
		}
	}
	if d := s.DowngradeInfo; d != nil && d.Enabled {
		m.Lowering, _ = version.Parse(d.TargetVersion)
	}
	m.Server, _ = version.Parse(s.Version)
	m.Storage, _ = version.Parse(s.StorageVersion)
	return nil
}

// rates asks for the revision once more, long enough after the first time.
func (g *gatherer) rates(ctx context.Context) {
	t := time.NewTimer(max(0, rateSpan-time.Since(g.began)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return
	}
	g.each(func(i int, m *plan.Member) {
		if m.Err != "" {
			return
		}
		_ = bounded(ctx, askTimeout, func(ctx context.Context) error {
			s, err := g.cli[i].Status(ctx, m.Endpoint)
			if err == nil && s.Header.Revision > m.Revision {
				m.WriteRate = float64(s.Header.Revision-m.Revision) / time.Since(g.began).Seconds()
			}
			return err
		})
	})
}
