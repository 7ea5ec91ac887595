// Package plan decides, and does nothing else: artefacts and facts come in as
// bytes and values, findings and plans go out.
package plan

import (
	"cmp"
	"slices"
	"strings"

	"theseus/version"
)

// Severity says what a finding means for the upgrade.
type Severity string

// The severities. Only Block makes the review end with exit code 3.
const (
	Block Severity = "block"
	Warn  Severity = "warn"
	Info  Severity = "info"
)

// Hazard is one row of the table of codes; codes are stable.
type Hazard struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"` // as a rule; a finding may be milder or harder
	Title    string   `json:"title"`
	Mend     string   `json:"mend"`
}

// Finding is one hazard at one place. Line counts from 1; 0 is the whole file.
type Finding struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	File     string   `json:"file"`
	Line     int      `json:"line"`
	Text     string   `json:"text,omitempty"` // the offending line as it stands
	Why      string   `json:"why"`
	Mend     string   `json:"mend"`
}

// Artefact is one file as it was read.
type Artefact struct {
	Name string
	Data []byte
}

// Options say what is to happen. The zero From means: not known; the zero To
// means the version Theseus speaks.
type Options struct {
	From, To   version.Version
	NewCluster bool // the cluster is being made, nothing runs yet
}

func (o Options) to() version.Version {
	if o.To.IsZero() {
		return version.Current
	}
	return o.To
}

// Hazards is the table of codes, in the order of the documentation.
var Hazards = []Hazard{
	{"DATA-REMOVED", Block, "the data or WAL directory of a member is removed, emptied or moved", "never remove it; to start over remove the member and add it again as a learner"},
	{"DATA-UNMOUNTED", Block, "the data directory is not on a mounted volume", "mount the host's data directory at --data-dir"},
	{"DATA-MOVED", Block, "the data directory's host path looks new, temporary or different", "mount the directory that the running member uses"},
	{"DATA-DEFAULT", Block, "no data directory is given", "give --data-dir with the directory that the running member uses"},
	{"STATE-NEW", Block, "initial-cluster-state is new for a member that exists", "--initial-cluster-state=existing"},
	{"STATE-DEFAULT", Info, "no initial-cluster-state is given, and the default is new", "--initial-cluster-state=existing"},
	{"RESTART-WIPES", Block, "automatic restart around a start that wipes or says new", "take the wiping out first; Restart=on-failure with a limit"},
	{"FORCE-NEW", Block, "force-new-cluster makes a one-member cluster of this member", "take it out"},
	{"NAME-CONSTANT", Block, "the same member name on every host", "take the name from the host"},
	{"NAME-UNLISTED", Block, "the member's name is not in initial-cluster", "use the name that the cluster knows"},
	{"PEER-URL-CHANGED", Block, "the advertised peer URL is not the one in initial-cluster", "use one and the same URL"},
	{"CLUSTER-LITERAL", Warn, "initial-cluster is written out while the host is computed", "use the computed list"},
	{"EVEN-MEMBERS", Warn, "an even number of members", "an odd number: the last one costs quorum and adds no safety"},
	{"TOKEN-DEFAULT", Info, "a cluster of several members with the default token", "leave it as the running cluster has it"},
	{"URL-PORT", Block, "a client URL with a peer port, or the other way round", "clients use 2379, peers 2380"},
	{"URL-LOOPBACK", Warn, "an advertised URL that only this host can reach", "advertise an address that clients and peers can reach"},
	{"TLS-MISSING", Block, "an https URL on a listener that has no certificate", "give the certificate and key of that listener"},
	{"TLS-IGNORED", Warn, "TLS flags beside http URLs do nothing", "https URLs, or no TLS flags"},
	{"TLS-DROPPED", Warn, "plain http where the same file uses TLS elsewhere", "https on this listener too, or confirm that it is meant"},
	{"FLAG-REMOVED", Block, "a flag that the target, or a hop on the way, no longer has", "the new spelling"},
	{"FLAG-UNKNOWN", Block, "no etcd from 3.1 to 3.7 has this flag", "correct the spelling"},
	{"FLAG-TOO-NEW", Warn, "a flag that the version on the way does not have yet", "add it after the last member has been upgraded"},
	{"FLAG-DEPRECATED", Info, "a flag that is still taken but does nothing, or is about to go", "take it out"},
	{"FLAG-TYPE", Block, "a value of a type that the target does not read", "the type that it reads"},
	{"FLAG-TWICE", Block, "the same setting as flag and as environment variable", "keep one of the two"},
	{"DEFAULT-CHANGED", Info, "a default that changes on the way", "set it, if the old behaviour matters"},
	{"CONFIG-SHADOWS", Warn, "flags beside config-file are ignored", "put everything into the file"},
	{"VERSION-JUMP", Block, "a jump of versions that the target cannot bridge", "one minor at a time, or Theseus, which takes any 3.x"},
	{"VERSION-UNCHECKED", Warn, "another version is put in place without looking at the one that runs", "compare with the running version first (give --from-version)"},
	{"PATCH-FLOOR", Warn, "a patch release too old to step from", "upgrade to the newest patch of this minor first"},
	{"IMAGE-FLOATING", Warn, "an image without a fixed version", "pin the version, better the digest"},
	{"KILL-BROAD", Block, "a kill by name ends every process that matches", "stop the unit or container by its own name, after moving the leadership"},
	{"KILL-HARD", Warn, "the member is killed, not stopped", "let it stop by SIGTERM: it hands the leadership over"},
	{"CONTAINER-FORCED", Block, "the container is removed by force while the member runs", "move the leadership, docker stop, rename and keep the old container"},
	{"CONTAINER-REMOVED", Warn, "the container is removed: with it what lay outside volumes, and the way back", "docker rename, and remove it when the upgrade is over"},
	{"STOP-UNGUARDED", Warn, "a member is stopped with no backup and no health check before", "etcdctl endpoint health --cluster and snapshot save first"},
	{"BACKGROUND", Warn, "etcd in the background of a shell: nothing restarts it, its log goes to the terminal", "run it under systemd or a container engine"},
	{"BACKUP-V2", Block, "a v2 backup only: keys written through the v3 API are not in it", "etcdctl snapshot save (API 3)"},
	{"BACKUP-CP", Block, "a copy of a live data directory is not a backup", "etcdctl snapshot save"},
	{"BACKUP-NONE", Block, "no backup before the first change", "etcdctl snapshot save, and restore it in proof"},
	{"HEALTH-NONE", Warn, "no health check after the change", "wait for etcdctl endpoint health --cluster before the next member"},
	{"GATE-NONE", Warn, "nothing waits for the member to be healthy before the next", "wait in a loop until every member is healthy, or stop"},
	{"LOOP-NO-GATE", Block, "all members in one loop without a gate", "wait for health inside the loop"},
	{"ETCDCTL-V2", Warn, "a command or flag of the v2 etcdctl, which is gone in 3.6", "the v3 command"},
	{"ETCDCTL-MOVED", Warn, "an etcdctl command that moved to etcdutl", "etcdutl"},
	{"QUOTA-LOW", Warn, "a quota that may lie below the live size", "look at the live size first; the alarm stops all writes"},
	{"PROBE-UNSERVED", Block, "a probe asks a port that no listener serves as asked", "--listen-metrics-urls on the probe's port"},
	{"PARALLEL", Block, "members are replaced in parallel", "one member at a time"},
	{"REMOTE-CODE", Warn, "code from elsewhere is run and was not read", "review what it fetches or sources, too"},
	{"NOT-UNDERSTOOD", Warn, "this could not be understood, so nothing is said about it", "read it yourself, or write it more plainly"},
}

// Lookup finds a row of the table.
func Lookup(code string) (Hazard, bool) {
	for _, h := range Hazards {
		if h.Code == code {
			return h, true
		}
	}
	return Hazard{}, false
}

// sheet gathers the findings of one artefact.
type sheet struct {
	file  string
	lines []string
	base  int // lines before this text in the file (a script inside another)
	opt   Options
	found []Finding
}

func newSheet(a Artefact, o Options) *sheet {
	return &sheet{file: a.Name, lines: strings.Split(string(a.Data), "\n"), opt: o}
}

// add notes a hazard at a line; mend "" takes the table's.
func (s *sheet) add(code string, line int, why, mend string) {
	h, ok := Lookup(code)
	if !ok {
		panic("no hazard " + code)
	}
	s.addAs(code, h.Severity, line, why, mend)
}

func (s *sheet) addAs(code string, sev Severity, line int, why, mend string) {
	h, _ := Lookup(code)
	f := Finding{Code: code, Severity: sev, File: s.file, Line: line, Why: why, Mend: cmp.Or(mend, h.Mend)}
	if f.Why == "" {
		f.Why = h.Title
	}
	if line > 0 {
		f.Line += s.base
		if f.Line <= len(s.lines) {
			f.Text = strings.TrimSpace(strings.ToValidUTF8(s.lines[f.Line-1], "?"))
		}
	}
	if !slices.Contains(s.found, f) {
		s.found = append(s.found, f)
	}
}

func (s *sheet) has(codes ...string) bool {
	return slices.ContainsFunc(s.found, func(f Finding) bool { return slices.Contains(codes, f.Code) })
}

// inner is a sheet for a text that begins after line `before` of this one.
func (s *sheet) inner(before int) *sheet {
	return &sheet{file: s.file, lines: s.lines, base: s.base + before, opt: s.opt}
}

func (s *sheet) sorted() []Finding {
	slices.SortStableFunc(s.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Why, b.Why))
	})
	return s.found
}

// Blocks says whether any finding blocks the upgrade.
func Blocks(fs []Finding) bool {
	return slices.ContainsFunc(fs, func(f Finding) bool { return f.Severity == Block })
}
