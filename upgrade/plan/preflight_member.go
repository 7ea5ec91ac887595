package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"theseus/version"
)

// Limits of what is put up with before an upgrade.
const (
	clockLimit    = 2 * time.Second     // dates in answers have a precision of one
	certLimit     = 30 * 24 * time.Hour // left of a certificate
	quotaWarn     = 80                  // percent of the quota
	quotaBlock    = 95
	spareBytes    = 64 << 20 // a log segment, which is written in full at once
	defaultQuota  = 2 << 30
	slowLimit     = 100 // slow applies or read indexes since the start
	restlessLimit = 20  // leader changes since the start
)

// member asks one member about itself.
func (r *remarks) member(f Facts, c cluster, m Member) {
	if m.HostErr != "" && !slices.ContainsFunc(r.all, func(x Remark) bool { return x.Code == "HOST-LOST" && x.Member == m.Name }) {
		r.add("HOST-SILENT", m.Name, "its host: "+m.HostErr, "")
	}
	r.certificate(f, m, "client", m.ClientCert)
	r.certificate(f, m, "peer", m.PeerCert)
	if m.Err != "" {
		why := "it does not answer: " + m.Err
		if m.Running {
			why += " (its process is there)"
		}
		r.add("NO-ANSWER", m.Name, why, "")
		return
	}
	if !m.Healthy {
		r.add("UNHEALTHY", m.Name, "it says that it is not well: "+cmp.Or(m.Reason, "no reason given"), "")
	}
	if lag := f.Lag(m); lag > lagLimit {
		r.add("LAGS", m.Name, fmt.Sprintf("it is %d entries behind", lag), "")
	}
	for _, a := range m.Alarms {
		r.add("ALARM", f.nameOf(a.Member), fmt.Sprintf("the alarm %s is raised", a.Name), "")
	}
	if off := m.ClockOffset.Abs(); off >= clockLimit {
		r.add("CLOCK", m.Name, fmt.Sprintf("its clock is %s off ours", m.ClockOffset), "")
	}
	if m.Auth && !f.Login {
		r.add("AUTH-NO-LOGIN", "", "", "")
	}
	if m.Leader == 0 {
		r.add("NO-LEADER", m.Name, "it sees no leader", "")
	}
	if m.SlowApplies+m.SlowReads > slowLimit || m.LeaderChanges > restlessLimit {
		r.add("SLOW", m.Name, fmt.Sprintf("%d slow applies, %d slow reads and %d changes of the leader since its start", m.SlowApplies, m.SlowReads, m.LeaderChanges), "")
	}
	r.right(c, m)
}

// right asks whether host and endpoint are the same member, with the cluster's name.
func (r *remarks) right(c cluster, m Member) {
	if p, ok := c.peer(m); ok && p.Name != "" && p.Name != m.Name {
		r.add("NAME-DIFFERS", m.Name, "the cluster calls it "+p.Name, "")
	}
	if m.HostErr == "" && !m.Running && (m.Binary != "" || m.Image != "") {
		r.add("HOST-WRONG", m.Name, "it answers at "+m.Endpoint+", and its host says that it does not run", "")
	}
	p, ok := c.peer(m)
	if name := running(m, "name"); ok && name != "" && p.Name != "" && name != p.Name {
		r.add("HOST-WRONG", m.Name, fmt.Sprintf("its host runs a member called %s, and %s is called %s", name, m.Endpoint, p.Name), "")
	}
}

// running is the value of one flag or variable that a member runs with.
func running(m Member, flag string) string {
	for i, a := range m.Args {
		name, value, has := strings.Cut(strings.TrimLeft(a, "-"), "=")
		switch {
		case !strings.HasPrefix(a, "-") || name != flag:
		case has:
			return value
		case i+1 < len(m.Args):
			return m.Args[i+1]
		}
	}
	return m.Env["ETCD_"+strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))]
}

func (f Facts) nameOf(id uint64) string {
	for _, m := range f.Members {
		if m.ID == id && id != 0 {
			return m.Name
		}
	}
	return ""
}

func (r *remarks) certificate(f Facts, m Member, port string, end time.Time) {
	if end.IsZero() {
		return
	}
	switch left := end.Sub(f.Taken); {
	case left <= 0:
		r.addAs("CERT-SOON", Block, m.Name, fmt.Sprintf("the certificate of its %s port ended on %s", port, end.Format(time.DateOnly)), "")
	case left < certLimit:
		r.add("CERT-SOON", m.Name, fmt.Sprintf("the certificate of its %s port ends on %s, in %d days", port, end.Format(time.DateOnly), int(left.Hours()/24)), "")
	}
}

// quota is a member's quota as far as it can be known.
func quota(m Member) int64 {
	if m.Quota != 0 {
		return m.Quota
	}
	var n int64
	if _, err := fmt.Sscan(running(m, "quota-backend-bytes"), &n); err == nil && n > 0 {
		return n
	}
	if len(m.Args) > 0 {
		return defaultQuota
	}
	return 0
}

// space asks for room: below the quota and on the disk.
func (r *remarks) space(m Member) {
	if m.Err != "" {
		return
	}
	if q := quota(m); q > 0 {
		sev := Severity("")
		switch used := m.DBSize * 100 / q; {
		case used >= quotaBlock:
			sev = Block
		case used >= quotaWarn:
			sev = Warn
		}
		if sev != "" {
			r.addAs("QUOTA-NEAR", sev, m.Name, fmt.Sprintf("the database has %s of a quota of %s", Size(m.DBSize), Size(q)), "")
		}
	}
	switch {
	case m.Free == 0:
	case m.Free < m.DBSize+spareBytes:
		r.addAs("DISK-LOW", Block, m.Name, fmt.Sprintf("%s are free beside a database of %s", Size(m.Free), Size(m.DBSize)), "")
	case m.Free < 2*m.DBSize+2*spareBytes:
		r.add("DISK-LOW", m.Name, fmt.Sprintf("%s are free beside a database of %s", Size(m.Free), Size(m.DBSize)), "")
	}
}

// Size writes bytes for people.
func Size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	x, i := float64(n), 0
	for x >= 1024 && i < len(units)-1 {
		x, i = x/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", x, units[i])
}

// membership compares what the members say of each other.
func (r *remarks) membership(f Facts, c cluster) {
	ids := map[uint64]string{}
	cluster := uint64(0)
	for _, m := range f.Members {
		if m.Err != "" || m.ID == 0 {
			continue
		}
		if other, twice := ids[m.ID]; twice {
			r.add("SAME-MEMBER", m.Name, "its endpoint leads to the same member as that of "+other, "")
		}
		ids[m.ID] = m.Name
		if cluster = cmp.Or(cluster, m.ClusterID); m.ClusterID != cluster {
			r.add("CLUSTER-DIFFERS", m.Name, fmt.Sprintf("it belongs to the cluster %x, others to %x", m.ClusterID, cluster), "")
			continue
		}
		if _, ok := c.peer(m); !ok && len(c.peers) > 0 {
			r.add("ZOMBIE", m.Name, "it answers, and most members do not have it in their list", "")
		} else if len(m.Sees) > 0 && len(c.peers) > 0 && !alike(m.Sees, c.peers) {
			r.add("MEMBERSHIP-DIFFERS", m.Name, "it sees "+names(m.Sees)+"; most see "+names(c.peers), "")
		}
	}
	learners := 0
	for _, p := range c.peers {
		if p.Learner {
			learners++
		}
	}
	if learners > 1 {
		r.add("LEARNERS", "", fmt.Sprintf("%d members are learners", learners), "")
	}
	if n := len(c.voters()); n > 2 && n%2 == 0 {
		r.add("EVEN-VOTERS", "", fmt.Sprintf("%d voters bear the loss of %d, as %d do", n, (n-1)/2, n-1), "")
	}
}

// alike compares memberships but for the client URLs, which an unstarted one has not.
func alike(a, b []Peer) bool {
	return slices.EqualFunc(a, b, func(x, y Peer) bool {
		return x.ID == y.ID && x.Learner == y.Learner && slices.Equal(x.Peers, y.Peers)
	})
}

func names(ps []Peer) string {
	var all []string
	for _, p := range ps {
		n := cmp.Or(p.Name, fmt.Sprintf("%x", p.ID))
		if p.Learner {
			n += " (learner)"
		}
		all = append(all, n)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// leaders asks whether all see one leader.
func (r *remarks) leaders(f Facts, c cluster) {
	for _, m := range f.Members {
		if m.Err == "" && m.Leader != 0 && m.Leader != c.leader {
			r.add("LEADER-SPLIT", m.Name, fmt.Sprintf("it sees the leader %s, others %s", cmp.Or(f.nameOf(m.Leader), fmt.Sprintf("%x", m.Leader)), cmp.Or(f.nameOf(c.leader), fmt.Sprintf("%x", c.leader))), "")
		}
	}
}

// whole asks what concerns the cluster and not one member: load, quotas, the archive.
func (r *remarks) whole(f Facts) {
	leases, rate, biggest := 0, 0.0, int64(0)
	quotas := map[int64]bool{}
	for _, m := range f.Members {
		if m.Err != "" {
			continue
		}
		leases, rate, biggest = max(leases, m.Leases), max(rate, m.WriteRate), max(biggest, m.DBSize)
		if q := quota(m); q > 0 {
			quotas[q] = true
		}
	}
	if len(quotas) > 1 {
		r.add("QUOTA-DIFFERS", "", "", "")
	}
	if rate >= 1 || leases > 0 {
		r.add("LOAD", "", fmt.Sprintf("about %.0f writes a second, %d leases", rate, leases), "")
	}
	if f.Scratch || f.Target == (Target{}) {
		return
	}
	switch a := f.Backup; {
	case a.URL == "":
		r.add("ARCHIVE-NONE", "", "", "")
	case a.Err != "":
		r.add("ARCHIVE-FAILS", "", a.Err, "")
	case a.Free > 0 && a.Free < 2*biggest+spareBytes:
		r.add("ARCHIVE-SPACE", "", fmt.Sprintf("%s are free for the backup of a database of %s and its proof", Size(a.Free), Size(biggest)), "")
	}
}

// hashes compares the members' data, where both tell its hash by the same rule.
func (r *remarks) hashes(f Facts) {
	type rule struct {
		h   Hash
		new bool
	}
	votes := map[rule]int{}
	var unknown []string
	var best *rule
	for _, m := range f.Members {
		switch {
		case m.Err != "":
		case m.Hash == nil:
			unknown = append(unknown, m.Name)
		default:
			k := rule{*m.Hash, newHash(m)}
			if votes[k]++; best == nil || votes[k] > votes[*best] {
				best = &k
			}
		}
	}
	for _, m := range f.Members {
		if m.Err != "" || m.Hash == nil || *m.Hash == best.h {
			continue
		}
		switch {
		case m.Hash.Revision != best.h.Revision || m.Hash.Compacted != best.h.Compacted || newHash(m) != best.new && m.Hash.Compacted > 0:
			unknown = append(unknown, m.Name)
		default:
			r.add("HASH-DIFFERS", m.Name, fmt.Sprintf("at revision %d its hash is %d, that of most is %d", m.Hash.Revision, m.Hash.Hash, best.h.Hash), "")
		}
	}
	if len(unknown) > 0 && len(f.Members) > 1 {
		r.add("HASH-UNKNOWN", "", "the data of "+strings.Join(unknown, ", ")+" could not be compared at one revision", "")
	}
}

// newHash says that a member leaves a tombstone at the compacted revision out of its
// hash, as later patches do.
func newHash(m Member) bool {
	v := m.Server
	return m.Theseus != "" || v.AtLeast(version.V3_6) || v.SameMinor(version.V3_5) && v.Patch >= 16 || v.SameMinor(version.V3_4) && v.Patch >= 34
}
