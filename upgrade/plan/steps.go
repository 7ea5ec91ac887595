package plan

// Plan is an ordered list of steps. It holds all that a run needs, so that a person can
// read it, check it in, and run just it.
type Plan struct {
	Format  int    `json:"format"` // 1
	Cluster string `json:"cluster"`
	From    string `json:"from"` // what runs now, for people: "etcd 3.4.45", "etcd 3.4.45 and Theseus"
	To      string `json:"to"`
	Steps   []Step `json:"steps"`
}

// Step is one thing that is done, journalled as intent and result. Doing it twice is
// doing it once.
type Step struct {
	ID      string  `json:"id"` // "12-s2-stop": its place, the member, the kind
	Kind    Kind    `json:"kind"`
	Member  string  `json:"member,omitempty"`  // the inventory's name; empty: the whole cluster
	To      string  `json:"to,omitempty"`      // move-leader: the member that is to lead
	Before  *Target `json:"before,omitempty"`  // swap: what was there, which undoing puts back
	Target  *Target `json:"target,omitempty"`  // stage, swap, ready: the program and its version
	Version string  `json:"version,omitempty"` // await-version, lower: the cluster version, "3.6"
	Why     string  `json:"why"`
	WayBack WayBack `json:"wayBack"`         // what there is once this step is done
	Point   bool    `json:"point,omitempty"` // of no return but by the backup: asked for unless --yes
}

// Kind is what a step does.
type Kind string

// The kinds of steps.
const (
	Backup       Kind = "backup"        // take one from an up-to-date member, prove it, keep it
	Stage        Kind = "stage"         // the program is on the member's host
	Gate         Kind = "gate"          // every member that ought to be is healthy and level, quorum without the next one, hashes equal, canary passes
	MoveLeader   Kind = "move-leader"   // awaited
	Stop         Kind = "stop"          // by SIGTERM, awaited
	Swap         Kind = "swap"          // what Start will start
	Start        Kind = "start"         // the program runs
	Ready        Kind = "ready"         // the member is healthy, of the target's version, level, same hash
	AwaitVersion Kind = "await-version" // the cluster version is there at every member
	Lower        Kind = "lower"         // downgrade enable, and wait until storage is there too
	Finish       Kind = "finish"        // nothing kept for the way back is needed any more; only when asked for
)

// WayBack is which way back there is at a point of the plan.
type WayBack string

// The ways back, from best to worst.
const (
	NothingDone WayBack = "nothing-done" // nothing was changed yet
	SwapBack    WayBack = "swap-back"    // stop, old program, start, one member at a time
	LowerFirst  WayBack = "lower-first"  // lower the cluster version online, then swap back
	Restore     WayBack = "restore"      // the backup, and what was written since is lost
)

// Text says in a few words what a step does.
func (s Step) Text() string {
	text := string(s.Kind)
	if s.Member != "" {
		text += " " + s.Member
	}
	switch s.Kind {
	case MoveLeader:
		text += " to " + s.To
	case Stage, Swap, Ready:
		if s.Target != nil {
			text += ": " + s.Target.String()
		}
	case AwaitVersion, Lower:
		text += " " + s.Version
	}
	return text
}
