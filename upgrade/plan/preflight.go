package plan

import (
	"cmp"
	"fmt"
	"slices"
)

// Remark is one finding about the cluster, or about the way to the target.
type Remark struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Member   string   `json:"member,omitempty"` // empty: the whole cluster
	Why      string   `json:"why"`
	Mend     string   `json:"mend"`
}

// Blocked says whether any remark stands in the way of the upgrade.
func Blocked(rs []Remark) bool {
	return slices.ContainsFunc(rs, func(r Remark) bool { return r.Severity == Block })
}

// Preflight is the table of the codes of remarks, in the order of the documentation.
// A remark on a member's command line has the code of a hazard.
var Preflight = []Hazard{
	{"NO-ANSWER", Warn, "a member does not answer", "look at its log; the plan begins with it, on its own data"},
	{"NO-QUORUM", Block, "fewer voters than a quorum answer and are well", "start the members that are down as they are, with their own data"},
	{"NO-LEADER", Block, "there is no leader", "wait for an election; look at the links between the members if none comes"},
	{"LEADER-SPLIT", Block, "members see different leaders", "wait a moment and ask again; look at the links between the members if it stays"},
	{"UNHEALTHY", Warn, "a member says that it is not well", "look at its log first; the plan begins with it"},
	{"LAGS", Warn, "a member is far behind the others", "wait until it has caught up; look at its disk and its links if it does not"},
	{"ALARM", Block, "an alarm is raised", "NOSPACE: compact, defragment, then etcdctl alarm disarm; CORRUPT: find the member whose hash differs and replace it"},
	{"HASH-DIFFERS", Block, "members hold different data at the same revision", "find the member that differs from the majority, remove it, and add it again as a learner with an empty directory"},
	{"HASH-UNKNOWN", Info, "the data of these members could not be compared", "members before 3.3 have no hash of a revision; look at the key counts yourself"},
	{"CLUSTER-DIFFERS", Block, "members of different clusters are listed", "correct the endpoint, or the cluster of that member"},
	{"SAME-MEMBER", Block, "two endpoints lead to the same member", "give every member its own endpoint, not one of a load balancer"},
	{"MEMBERSHIP-DIFFERS", Block, "members disagree on who is a member", "wait for the one that lags; a member that keeps another view has to be replaced"},
	{"MEMBERSHIP-UNKNOWN", Block, "no member tells who the members are", "wait for a leader; look at the log of a member if none comes"},
	{"ZOMBIE", Block, "a member answers that the others have removed", "stop it, and take it out of the inventory"},
	{"NOT-LISTED", Block, "the cluster has a member that the inventory has not", "add it to members, or remove it from the cluster if it is gone for good"},
	{"UNSTARTED", Block, "a member was added and has never been started", "start it, or remove it: it counts for the quorum without helping it"},
	{"NAME-DIFFERS", Warn, "the inventory has another name for a member than the cluster", "use the cluster's names, so that logs and plan agree"},
	{"LEARNERS", Warn, "more than one learner", "promote or remove them first: etcd before 3.6 takes one only"},
	{"EVEN-VOTERS", Warn, "an even number of voters", "one more, or one less, is as safe and cheaper"},
	{"TWO-VOTERS", Block, "two voters: neither can be stopped without losing quorum", "add a third voter first (member add --learner, then promote)"},
	{"ONE-VOTER", Warn, "one voter: nothing is served while it is restarted", "add two more members first, or accept the pause"},
	{"QUOTA-NEAR", Warn, "the database is near its quota", "compact and defragment first, or raise --quota-backend-bytes"},
	{"QUOTA-DIFFERS", Warn, "members have different quotas", "the same --quota-backend-bytes everywhere: the lowest one stops all writes"},
	{"DISK-LOW", Warn, "little space is free beside a member's data", "free some: a snapshot and a new log segment are written at an upgrade"},
	{"CERT-SOON", Warn, "a certificate ends soon", "renew it first: a restarted member is refused by those it was connected to before"},
	{"CLOCK", Warn, "a member's clock is off", "start time synchronisation on its host"},
	{"AUTH-NO-LOGIN", Block, "auth is on and the inventory has no login", "add auth.user and auth.passwordFile of a user with the role root"},
	{"HOST-LOST", Block, "a member that has to be moved cannot be reached at its host", "make its host reachable, or remove the member from the cluster and the inventory"},
	{"HOST-SILENT", Warn, "a member's host could not be asked", "make it reachable: nothing is known of its disk and its command line"},
	{"HOST-WRONG", Block, "what the inventory names at the host is not this member", "correct host in the inventory"},
	{"STAGE-FAILED", Block, "the program cannot be started at a member's host", "put it there, executable and for that machine"},
	{"STAGE-DIFFERS", Block, "the program is another version than was said or than elsewhere", "put the same program at the same path on every host"},
	{"TARGET-UNKNOWN", Block, "it is not known which version the target is", "name the target's binary or image, and its version if it cannot be asked for it"},
	{"VERSION-UNKNOWN", Block, "no member tells the cluster version", "make a member answer at its endpoint"},
	{"VERSION-MIXED", Info, "members run different versions: an upgrade is half done", "nothing: the plan goes on from here"},
	{"VERSION-WAITS", Warn, "members see different cluster versions", "wait a few seconds and ask again"},
	{"LOWERING", Block, "a downgrade to another version is under way", "end it (etcdctl downgrade cancel), or make its version the target"},
	{"HOP-MISSING", Block, "a version on the way has no program", "name its binary or image in hops"},
	{"HOP-YOUNG", Warn, "the log may hold entries that the next version of etcd cannot read", "let every member take a snapshot first (--snapshot-count 1000 and some writes), or move to Theseus, which reads them"},
	{"V2-KEYS", Block, "there are keys of the v2 store", "move them to v3 keys: etcd 3.6 does not start with them"},
	{"LOWER-NEVER", Block, "the cluster version cannot be lowered to the target's", "move to Theseus first"},
	{"LEADER-STAYS", Warn, "the leader cannot be asked to hand over", "nothing: it hands over when it is stopped, at the cost of an election"},
	{"WAY-BACK-ENDS", Warn, "the way back ends at a step of the plan", "rehearse before, and look at the cluster at that step before agreeing"},
	{"ARCHIVE-NONE", Block, "no place for the backup is named", "set backup.archive, such as dir:/var/backups/etcd, on another disk than the members'"},
	{"ARCHIVE-FAILS", Block, "the place for the backup cannot be used", "make the directory writable for who runs this"},
	{"ARCHIVE-SPACE", Block, "the place for the backup is too small", "free some, or name another: the backup and its proof need twice the database"},
	{"KUBERNETES", Warn, "the kube-apiserver was not released with this version of etcd", "look at the release notes of both, and rehearse with one kube-apiserver"},
	{"LOAD", Info, "the cluster is in use", "nothing: a quiet hour is kinder to clients"},
	{"SLOW", Warn, "a member's disk or network was too slow since its start", "look at its disk before: catching up after the restart takes as long"},
	{"CANARY", Block, "the cluster did not pass a write, a read, a watch and a lease", "look at what failed: clients meet the same"},
	{"THERE", Info, "the cluster is at the target already", "nothing"},
}

// remarks gathers what is found.
type remarks struct{ all []Remark }

// add notes a remark with the table's severity; mend "" takes the table's.
func (r *remarks) add(code, member, why, mend string) {
	h, ok := PreflightLookup(code)
	if !ok {
		panic("no remark " + code)
	}
	r.addAs(code, h.Severity, member, why, mend)
}

func (r *remarks) addAs(code string, sev Severity, member, why, mend string) {
	h, _ := PreflightLookup(code)
	x := Remark{Code: code, Severity: sev, Member: member, Why: cmp.Or(why, h.Title), Mend: cmp.Or(mend, h.Mend)}
	if !slices.Contains(r.all, x) {
		r.all = append(r.all, x)
	}
}

// PreflightLookup finds a code in the table of remarks, or in that of hazards.
func PreflightLookup(code string) (Hazard, bool) {
	for _, h := range Preflight {
		if h.Code == code {
			return h, true
		}
	}
	return Lookup(code)
}

// sorted puts what blocks first, then by member as the inventory has them.
func (r *remarks) sorted(f Facts) []Remark {
	rank := map[Severity]int{Block: 0, Warn: 1, Info: 2}
	place := map[string]int{}
	for i, m := range f.Members {
		place[m.Name] = i + 1
	}
	slices.SortStableFunc(r.all, func(a, b Remark) int {
		return cmp.Or(cmp.Compare(rank[a.Severity], rank[b.Severity]), cmp.Compare(place[a.Member], place[b.Member]))
	})
	return r.all
}

// Check asks all the questions of the preflight, of the facts and of the way to the
// target. Without a target it looks at the cluster only.
func Check(f Facts) []Remark {
	r := &remarks{}
	c := see(f)
	var route []leg
	if f.Target == (Target{}) {
		r.knowable(f, c)
		r.margin(f, c, nil)
		r.membership(f, c)
		r.leaders(f, c)
	} else {
		var p Plan
		p, r.all = Make(f)
		route = new(remarks).route(f, c) // its remarks are Make's
		r.wayBack(p)
	}
	r.hashes(f)
	for _, m := range f.Members {
		r.member(f, c, m)
		r.space(m)
		r.staged(m, route)
		r.commandLine(m, route)
	}
	r.whole(f)
	r.store(f, c, route)
	r.versions(f, c)
	r.kubernetes(f, route)
	return r.sorted(f)
}

// wayBack tells where the way back ends, if it does.
func (r *remarks) wayBack(p Plan) {
	for _, s := range p.Steps {
		if s.Point {
			r.add("WAY-BACK-ENDS", s.Member, fmt.Sprintf("after step %s the cluster version rises to one that cannot be lowered to %s again: only the backup leads back", s.ID, p.From), "")
		}
	}
}

func (r *remarks) there(p Plan, f Facts) {
	if len(p.Steps) == 0 {
		r.add("THERE", "", fmt.Sprintf("every member runs %s and the cluster version is there", f.Target), "")
	}
}
