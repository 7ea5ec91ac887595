package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"theseus/version"
)

// knowable says what must be known before any way can be found.
func (r *remarks) knowable(f Facts, c cluster) {
	if c.version.IsZero() {
		r.add("VERSION-UNKNOWN", "", "", "")
	} else if len(c.peers) == 0 {
		r.add("MEMBERSHIP-UNKNOWN", "", "", "")
	}
	for _, p := range c.peers {
		listed := slices.ContainsFunc(f.Members, func(m Member) bool { q, ok := c.peer(m); return ok && q.ID == p.ID })
		switch {
		case p.Name == "" && p.Learner:
			r.addAs("UNSTARTED", Warn, "", fmt.Sprintf("the learner %x at %s was added and has never been started", p.ID, strings.Join(p.Peers, ",")), "")
		case p.Name == "":
			r.add("UNSTARTED", "", fmt.Sprintf("the member %x at %s was added and has never been started", p.ID, strings.Join(p.Peers, ",")), "")
		case !listed:
			r.add("NOT-LISTED", "", fmt.Sprintf("the cluster has the member %s (%x), and the inventory has not", p.Name, p.ID), "")
		}
	}
}

// margin asks whether the members can be moved one by one.
func (r *remarks) margin(f Facts, c cluster, route []leg) {
	if c.version.IsZero() {
		return
	}
	well := 0
	for _, m := range f.Members {
		if c.voter(m) && f.level(m) {
			well++
		}
	}
	if well < c.quorum() {
		r.add("NO-QUORUM", "", fmt.Sprintf("%d of %d voters are well, %d are needed", well, len(c.voters()), c.quorum()), "")
	}
	for _, m := range f.Members {
		if to := m.Lowering; !to.IsZero() && len(route) > 0 && !slices.ContainsFunc(route, func(l leg) bool { return l.await.SameMinor(to) }) {
			r.add("LOWERING", "", "a downgrade to "+to.MinorString()+" is under way", "")
		}
	}
	for _, l := range route {
		for _, m := range f.Members {
			if !l.there(m) {
				r.movable(c, l, m)
			}
		}
	}
}

// movable asks whether one member can be moved.
func (r *remarks) movable(c cluster, l leg, m Member) {
	if m.HostErr != "" {
		r.add("HOST-LOST", m.Name, "its host: "+m.HostErr, "")
	}
	if m.HostErr == "" && m.Binary == "" && m.Image == "" {
		r.add("HOST-SILENT", m.Name, "its host was not asked: the plan can be read and not be run", "give its host in the inventory")
	}
	if !l.lower.IsZero() && m.Err != "" {
		r.addAs("NO-ANSWER", Block, m.Name, "it does not answer, and the cluster version is lowered only when all members do", "start it as it is, with its own data, first")
	}
	switch n := len(c.voters()); {
	case !c.voter(m):
	case n == 2:
		r.add("TWO-VOTERS", "", "", "")
	case n == 1:
		r.add("ONE-VOTER", "", "", "")
	case m.ID != 0 && m.ID == c.leader && m.Theseus == "" && m.Server.Less(version.V3_3):
		r.add("LEADER-STAYS", m.Name, fmt.Sprintf("etcd %s has no command that moves the leadership", m.Server.MinorString()), "")
	}
}

// staged asks whether the programs that a member is to run are at its host.
func (r *remarks) staged(m Member, route []leg) {
	for _, l := range route {
		prog := l.target.of(m).program()
		text, asked := m.Staged[prog]
		if !asked || l.there(m) {
			continue
		}
		if why, failed := strings.CutPrefix(text, "error: "); failed {
			r.add("STAGE-FAILED", m.Name, prog+": "+why, "")
			continue
		}
		v, product, theseus := ReadVersion(text)
		if v.IsZero() {
			v, _ = version.Parse(text)
			theseus, product = l.target.Theseus, l.target.Product
		}
		if v != l.target.Version || theseus != l.target.Theseus || product != l.target.Product {
			here := Target{Version: v, Theseus: theseus, Product: product}
			r.add("STAGE-DIFFERS", m.Name, fmt.Sprintf("%s is %s (%s) here, and %s (%s) was expected", prog, here, v, l.target, l.target.Version), "")
		}
	}
}

// commandLine judges the flags that a member runs with for every version on the way,
// by the same rules as the review of a unit or script.
func (r *remarks) commandLine(m Member, route []leg) {
	if len(m.Args) == 0 && len(m.Env) == 0 {
		return
	}
	from := m.Server
	for _, l := range route {
		if l.there(m) {
			continue
		}
		s := newSheet(Artefact{Name: m.Name}, Options{From: from, To: l.target.Version})
		line := &launch{}
		words := make([]word, len(m.Args))
		for i, a := range m.Args {
			words[i] = word{text: a, known: true}
		}
		line.args(s, words)
		for _, k := range slices.Sorted(mapKeys(m.Env)) {
			if st, ok := environment(k+"="+m.Env[k], 0); ok {
				st.known = true
				line.settings = append(line.settings, st)
			}
		}
		s.hops(line, from)
		s.values(line)
		s.twice(line)
		if st, ok := line.get("initial-cluster-state"); ok && st.value == "new" {
			s.addAs("STATE-NEW", Warn, 0, "it says that the member is new: with an empty data directory it would be born again", "")
		}
		for _, found := range s.sorted() {
			if found.Code == "FLAG-UNKNOWN" && l.target.Theseus && m.Theseus != "" {
				continue // it is one of our own, which etcd has not
			}
			sev := found.Severity
			if found.Code == "FLAG-TOO-NEW" && sev == Warn {
				sev = Block // it runs now, and the target does not start with it
			}
			r.addAs(found.Code, sev, m.Name, fmt.Sprintf("%s (to %s)", found.Why, l.target), found.Mend)
		}
		from = l.target.Version
	}
}

func mapKeys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// store looks for what real etcd on the way would end on.
func (r *remarks) store(f Facts, c cluster, route []leg) {
	for _, m := range f.Members {
		if !m.V2Keys {
			continue
		}
		if !slices.ContainsFunc(route, func(l leg) bool { return !l.target.Theseus && l.target.Version.AtLeast(version.V3_6) }) {
			r.addAs("V2-KEYS", Warn, m.Name, "there are keys in the v2 store: the target keeps them and does not serve them", "move what is still used to v3 keys")
		} else {
			r.add("V2-KEYS", m.Name, "there are keys in the v2 store: etcd 3.6 ends with detected disallowed custom content in v2store", "")
		}
	}
	for _, l := range route {
		if l.target.Theseus || l.down {
			continue
		}
		for _, m := range f.Members {
			if m.Err == "" && m.Theseus == "" && !l.there(m) {
				r.young(c, l, m)
				r.replaced(l, m)
			}
		}
	}
}

// young asks whether the log since the last snapshot holds v2 entries that the next
// version cannot read: 3.6 ends on those that health probes of 3.3 left, 3.7 on any.
func (r *remarks) young(c cluster, l leg, m Member) {
	uncut := func(count uint64) bool { return m.Snapshot == -1 || m.Snapshot == 0 && m.Index <= count }
	later := snapshotCount(m, version.V3_6) // 3.6 cuts a longer log as soon as it runs
	switch to := l.target.Version; {
	case to.SameMinor(version.V3_6) && m.Server.Less(version.V3_4) && uncut(snapshotCount(m, m.Server)):
		r.add("HOP-YOUNG", m.Name, fmt.Sprintf("the log has not been cut since %s, where health probes leave v2 entries (QGET) in it: etcd 3.6 ends with detected disallowed v2 WAL", m.Server.MinorString()), "")
	case !to.SameMinor(version.V3_7):
	case c.lowest.SameMinor(version.V3_5) && m.Index <= later && uncut(later):
		r.addAs("HOP-YOUNG", Block, m.Name, "the log has not been cut since 3.5 wrote v2 entries into it: etcd 3.7 ends with unmarshal should never fail", mendYoung)
	case c.lowest.SameMinor(version.V3_5) && m.Snapshot > 0 && m.Index-min(m.Index, uint64(m.Snapshot)) <= later:
		r.add("HOP-YOUNG", m.Name, "if 3.5 was started since its last snapshot, v2 entries are in the log: etcd 3.7 ends with unmarshal should never fail", mendYoung)
	case c.lowest.SameMinor(version.V3_6) && uncut(later):
		r.add("HOP-YOUNG", m.Name, "the log has not been cut for long: if the cluster is older than 3.6, v2 entries are in it and etcd 3.7 ends with unmarshal should never fail", "")
	}
}

const mendYoung = "make 3.6 the target first, let every member take a snapshot there (--snapshot-count 5 and a few writes), then go to 3.7; or move to Theseus, which reads them"

// replacedFloor is the patch of 3.5 from which members that were removed before are
// certainly gone from the list that 3.6 takes for the truth.
var replacedFloor = version.V(3, 5, 32)

func (r *remarks) replaced(l leg, m Member) {
	if l.target.Version.SameMinor(version.V3_6) && m.Server.AtLeast(floors[version.V3_6]) && m.Server.Less(replacedFloor) {
		r.add("PATCH-FLOOR", m.Name, fmt.Sprintf("%s is below %s, which is wanted before 3.6 where members were ever replaced", m.Server, replacedFloor), "")
	}
}

// snapshotCount is how many entries a member writes between two snapshots at most, once
// it runs version v.
func snapshotCount(m Member, v version.Version) uint64 {
	var n uint64
	if _, err := fmt.Sscan(running(m, "snapshot-count"), &n); err == nil {
		return n
	}
	if v.Less(version.V3_2) || v.AtLeast(version.V3_6) {
		return 10_000
	}
	return 100_000
}

// shipped are the minors of etcd that releases of Kubernetes came with: from the first
// of each row on.
var shipped = []struct{ kube, etcd int }{{34, 6}, {22, 5}, {17, 4}, {14, 3}, {11, 2}, {9, 1}}

// kubernetes compares the API servers' releases with the target.
func (r *remarks) kubernetes(f Facts, route []leg) {
	if len(route) == 0 {
		return
	}
	for _, k := range f.Kube {
		if why, failed := strings.CutPrefix(k, "error: "); failed {
			r.add("KUBERNETES", "", "the version of a kube-apiserver is not known: "+why, "give the version itself in kubernetes.apiservers")
			continue
		}
		v, err := version.Parse(k)
		if err != nil {
			r.add("KUBERNETES", "", fmt.Sprintf("%q is not a version of Kubernetes", k), "give it as 1.29.3")
			continue
		}
		minor := 0
		for _, s := range shipped {
			if minor == 0 && v.Major == 1 && v.Minor >= s.kube {
				minor = s.etcd
			}
		}
		to := f.Target.Version
		switch {
		case minor == 0:
			r.add("KUBERNETES", "", fmt.Sprintf("Kubernetes %s is too old to be known here", v), "")
		case to.Minor < minor:
			r.add("KUBERNETES", "", fmt.Sprintf("Kubernetes %s came with etcd 3.%d and may want what %s has not", v, minor, to.MinorString()), "")
		case to.Minor > minor+1:
			r.addAs("KUBERNETES", Info, "", fmt.Sprintf("Kubernetes %s came with etcd 3.%d; it uses nothing that %s has not", v, minor, to.MinorString()), "")
		}
	}
}

// versions says that an upgrade is half done, and what is still to settle.
func (r *remarks) versions(f Facts, c cluster) {
	var runs []string
	for _, m := range f.Members {
		if m.Err != "" {
			continue
		}
		if !slices.Contains(runs, m.Runs()) {
			runs = append(runs, m.Runs())
		}
		if !m.Cluster.IsZero() && m.Cluster.Trunc() != c.version.Trunc() {
			r.add("VERSION-WAITS", m.Name, fmt.Sprintf("it sees cluster version %s, others %s", m.Cluster.MinorString(), c.version.MinorString()), "")
		}
	}
	if slices.Sort(runs); len(runs) > 1 {
		r.add("VERSION-MIXED", "", strings.Join(runs, ", ")+" run side by side; the cluster version is "+cmp.Or(c.version, version.Min).MinorString(), "")
	}
}
