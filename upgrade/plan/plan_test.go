package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"theseus/version"
)

var taken = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// TestGoldenPlans reads situations in a compact form and writes plans or remarks.
//
// A line is "NAME PROGRAM [OPTION…]" for a member of the inventory, "peer NAME" for one
// that only the cluster has, or "target", "hop", "scratch", "archive", "kube".
func TestGoldenPlans(t *testing.T) {
	situations := 0
	for _, file := range []string{"testdata/plan", "testdata/check"} {
		datadriven.RunTest(t, file, func(t *testing.T, d *datadriven.TestData) string {
			situations++
			f, err := situation(d.Input)
			if err != nil {
				return "error: " + err.Error() + "\n"
			}
			if d.Cmd == "check" {
				return remarkText(Check(f))
			}
			p, remarks := Make(f)
			return planText(p) + remarkText(remarks)
		})
	}
	if situations < 60 {
		t.Errorf("only %d situations", situations)
	}
}

// planText is one line a step, and a line where the way back changes.
func planText(p Plan) string {
	var b strings.Builder
	way := WayBack("")
	if len(p.Steps) > 0 {
		fmt.Fprintf(&b, "%s -> %s\n", p.From, p.To)
	}
	for _, s := range p.Steps {
		if s.WayBack != way {
			way = s.WayBack
			fmt.Fprintf(&b, "  (%s)\n", way)
		}
		fmt.Fprintf(&b, "%s", s.ID)
		b.WriteString(rest(s))
		if s.Point {
			b.WriteString(" POINT")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// rest is what a step's text says beyond its kind and member.
func rest(s Step) string {
	text := strings.TrimPrefix(s.Text(), string(s.Kind))
	if s.Member != "" {
		text = strings.TrimPrefix(text, " "+s.Member)
	}
	return text
}

func remarkText(rs []Remark) string {
	var b strings.Builder
	for _, r := range rs {
		fmt.Fprintf(&b, "%s %s %s: %s\n", r.Severity, r.Code, r.Member, r.Why)
	}
	return b.String()
}

// situation reads facts from their compact form.
func situation(text string) (Facts, error) {
	f := Facts{Cluster: "c", Taken: taken, Backup: Archive{URL: "dir:/backup"}}
	var peers []Peer
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) < 1 {
			continue
		}
		switch w[0] {
		case "target":
			f.Target = program(w[1])
			if len(w) > 2 {
				f.Target.Image = w[2]
			}
		case "hop":
			f.Hops = append(f.Hops, program(w[1]))
		case "scratch":
			f.Scratch = true
		case "login":
			f.Login = true
		case "kube":
			f.Kube = w[1:]
		case "archive":
			f.Backup = Archive{}
			for _, o := range w[1:] {
				k, v, _ := strings.Cut(o, "=")
				switch k {
				case "url":
					f.Backup.URL = v
				case "free":
					f.Backup.Free, _ = strconv.ParseInt(v, 10, 64)
				case "err":
					f.Backup.Err = v
				}
			}
		case "peer":
			p := Peer{ID: 0xf0 + uint64(len(peers)), Name: w[1], Peers: []string{"http://" + w[1]}}
			if slices.Contains(w, "unstarted") {
				p.Name = ""
			}
			p.Learner = slices.Contains(w, "learner")
			peers = append(peers, p)
		default:
			m, p, err := member(w, uint64(len(f.Members)+1))
			if err != nil {
				return f, err
			}
			f.Members = append(f.Members, m)
			if !slices.Contains(w, "removed") {
				peers = append(peers, p)
			}
		}
	}
	finish(&f, peers)
	return f, nil
}

// finish fills in what every member says of the whole.
func finish(f *Facts, peers []Peer) {
	slices.SortFunc(peers, func(a, b Peer) int { return int(a.ID) - int(b.ID) })
	leader := uint64(0)
	for _, m := range f.Members {
		if m.Leader == m.ID {
			leader = m.ID
		}
	}
	for i := range f.Members {
		m := &f.Members[i]
		if m.Err != "" {
			m.ID, m.Leader = 0, 0
			continue
		}
		if m.Sees == nil {
			m.Sees = peers
		}
		switch {
		case m.Reason == "leaderless":
			m.Leader = 0
		case m.Leader == 0:
			m.Leader = leader
		}
	}
}

// program reads "etcd-3.6.16", "theseus-0.1.0" or "unknown".
func program(text string) Target {
	name, v, _ := strings.Cut(text, "-")
	t := Target{Binary: "/opt/" + text}
	if name == "theseus" {
		t.Theseus, t.Product, t.Version = true, v, version.Current
	} else if name == "etcd" {
		t.Version, _ = version.Parse(v)
	}
	return t
}

// member reads one member's line.
func member(w []string, id uint64) (Member, Peer, error) {
	m := Member{Name: w[0], Endpoint: "http://" + w[0], ID: id, ClusterID: 0xc, Healthy: true, Running: true,
		Term: 2, Index: 10_000_000, Applied: 10_000_000, Revision: 100, DBSize: 1 << 20, Quota: 2 << 30, Hash: &Hash{100, 0, 7}, Snapshot: 9_000_000}
	t := program(w[1])
	m.Binary, m.Server, m.Theseus, m.Cluster = t.Binary, t.Version, t.Product, t.Version.Trunc()
	p := Peer{ID: id, Name: w[0], Peers: []string{"http://" + w[0]}}
	for _, o := range w[2:] {
		k, v, _ := strings.Cut(o, "=")
		n, _ := strconv.ParseInt(v, 10, 64)
		switch k {
		case "leader":
			m.Leader = id
		case "leaderless":
			m.Reason = o
		case "sees-leader":
			m.Leader = uint64(n)
		case "learner":
			m.Learner, p.Learner = true, true
		case "dead":
			m = Member{Name: m.Name, Endpoint: m.Endpoint, Err: "connection refused", ID: id, Binary: m.Binary}
		case "hung":
			m.Err = "no answer within 5s"
		case "cluster":
			m.Cluster, _ = version.Parse(v)
		case "lowering":
			m.Lowering, _ = version.Parse(v)
		case "unwell":
			m.Healthy, m.Reason = false, "disk"
		case "lag":
			m.Index, m.Applied = m.Index-uint64(n), m.Applied-uint64(n)
		case "young":
			m.Index, m.Applied, m.Snapshot = 50, 50, n
		case "snapshot":
			m.Snapshot = n
		case "alarm":
			m.Alarms = append(m.Alarms, Alarm{id, v})
		case "hash":
			m.Hash = &Hash{100, 0, uint32(n)}
		case "compacted":
			m.Hash = &Hash{100, n, 9}
		case "nohash":
			m.Hash = nil
		case "db":
			m.DBSize = n
		case "quota":
			m.Quota = n
		case "free":
			m.Free = n
		case "clock":
			m.ClockOffset, _ = time.ParseDuration(v)
		case "cert":
			m.ClientCert = taken.AddDate(0, 0, int(n))
		case "peercert":
			m.PeerCert = taken.AddDate(0, 0, int(n))
		case "auth":
			m.Auth = true
		case "leases":
			m.Leases = int(n)
		case "rate":
			m.WriteRate = float64(n)
		case "v2":
			m.V2Keys = true
		case "hosterr":
			m.HostErr = "ssh: no route"
		case "image":
			m.Image, m.Binary = v, ""
		case "stopped":
			m.Running = false
		case "args":
			m.Args = strings.Split(v, ",")
			if _, rest, ok := strings.Cut(o, "args="); ok {
				m.Args = strings.Split(rest, ",")
			}
		case "env":
			name, value, _ := strings.Cut(v, ":")
			m.Env = map[string]string{name: value}
		case "staged":
			prog, says, _ := strings.Cut(v, ":")
			m.Staged = map[string]string{"/opt/" + prog: strings.ReplaceAll(says, "_", " ")}
		case "slow":
			m.SlowApplies = n
		case "called":
			p.Name = v
		case "id":
			m.ID = uint64(n)
		case "of":
			m.ClusterID = uint64(n)
		case "mute":
			m.Sees = []Peer{}
		case "blind":
			m.Sees = []Peer{p}
		case "removed":
		default:
			return m, p, fmt.Errorf("%s: no option %q", w[0], o)
		}
	}
	return m, p, nil
}
