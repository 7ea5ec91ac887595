package plan

import (
	"time"

	"theseus/version"
)

// Facts are what is known of a cluster and of what is wanted, at one moment. Nothing
// here is computed; what could not be learned is zero, and Err says why.
type Facts struct {
	Cluster string    `json:"cluster"`
	Taken   time.Time `json:"taken"`
	Members []Member  `json:"members"`           // one of each inventory line, in its order
	Target  Target    `json:"target"`            // where every member is to end
	Hops    []Target  `json:"hops,omitempty"`    // binaries or images the operator named for the versions on the way
	Backup  Archive   `json:"backup"`            // where the backup is to go
	Limits  Limits    `json:"limits"`            // the operator's, with defaults filled in
	Kube    []string  `json:"kube,omitempty"`    // versions of the kube-apiservers that use this cluster
	Login   bool      `json:"login,omitempty"`   // the inventory has a user and a password
	Scratch bool      `json:"scratch,omitempty"` // a rehearsal: the cluster is ours and holds a copy
}

// Target is one version with the program that has it.
type Target struct {
	Version version.Version `json:"version"`           // of etcd's protocol
	Theseus bool            `json:"theseus,omitempty"` // a Theseus, which takes any 3.x and gives any back
	Product string          `json:"product,omitempty"` // a Theseus's own version; empty: not known
	Binary  string          `json:"binary,omitempty"`
	Image   string          `json:"image,omitempty"`
}

// Archive is the place of backups.
type Archive struct {
	URL  string `json:"url"`            // dir:/path
	Free int64  `json:"free,omitempty"` // bytes; 0 means not known
	Err  string `json:"err,omitempty"`
}

// Limits bound what a run waits for.
type Limits struct {
	Stall   time.Duration `json:"stall"`   // the longest gap in writes that is put up with; default 2 s
	Catchup time.Duration `json:"catchup"` // for a member to be ready and level again; default 10 min
	Stop    time.Duration `json:"stop"`    // for a member to end after SIGTERM; default 60 s
}

// Member is what one member says of itself over the wire and what its host says of it.
type Member struct {
	Name     string `json:"name"`
	Endpoint string `json:"endpoint"`
	Err      string `json:"err,omitempty"` // why it did not answer; everything below is unknown then

	ID        uint64          `json:"id"`
	ClusterID uint64          `json:"clusterID"`
	Leader    uint64          `json:"leader"`
	Learner   bool            `json:"learner,omitempty"`
	Server    version.Version `json:"server"`            // of its program
	Cluster   version.Version `json:"cluster"`           // as it sees the cluster's
	Storage   version.Version `json:"storage,omitzero"`  // since 3.6
	Theseus   string          `json:"theseus,omitempty"` // its own version, if it is one of ours

	Lowering version.Version `json:"lowering,omitzero"` // target of a downgrade that is under way

	Healthy bool   `json:"healthy"`
	Reason  string `json:"reason,omitempty"` // of bad health

	Term      uint64 `json:"term"`
	Index     uint64 `json:"index"`   // committed
	Applied   uint64 `json:"applied"` // 0 below 3.4
	Revision  int64  `json:"revision"`
	Compacted int64  `json:"compacted"`
	Hash      *Hash  `json:"hash,omitempty"` // at one revision that all were asked for; nil: not known

	DBSize  int64   `json:"dbSize"`
	DBInUse int64   `json:"dbInUse,omitempty"`
	Quota   int64   `json:"quota,omitempty"` // 0: not known
	Alarms  []Alarm `json:"alarms,omitempty"`

	Sees []Peer `json:"sees"` // the membership as this member has it

	ClockOffset time.Duration `json:"clockOffset,omitempty"` // its clock minus ours, a second's precision
	ClientCert  time.Time     `json:"clientCert,omitzero"`   // not after; zero without TLS
	PeerCert    time.Time     `json:"peerCert,omitzero"`
	V2Keys      bool          `json:"v2Keys,omitempty"`
	Auth        bool          `json:"auth,omitempty"`
	Leases      int           `json:"leases,omitempty"`
	WriteRate   float64       `json:"writeRate,omitempty"` // revisions a second while facts were gathered
	Snapshot    int64         `json:"snapshot,omitempty"`  // raft index of its last snapshot; -1: known to have none; 0: not known

	SlowApplies   int64 `json:"slowApplies,omitempty"`   // since its start; 0 where not known
	SlowReads     int64 `json:"slowReads,omitempty"`     // read indexes that took too long, since its start
	LeaderChanges int64 `json:"leaderChanges,omitempty"` // that it saw, since its start

	HostErr string            `json:"hostErr,omitempty"` // why its host did not answer
	Running bool              `json:"running"`           // as its host says
	Binary  string            `json:"binary,omitempty"`
	Image   string            `json:"image,omitempty"`
	Args    []string          `json:"args,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	Free    int64             `json:"free,omitempty"`   // bytes free beside its data; 0: not known
	Staged  map[string]string `json:"staged,omitempty"` // program → version it told, or why it cannot be staged (begins with "error: ")
}

// Hash is a member's hash of all keys up to a revision.
type Hash struct {
	Revision, Compacted int64
	Hash                uint32
}

// Alarm is one that is raised, for the member that has it.
type Alarm struct {
	Member uint64 `json:"member"`
	Name   string `json:"name"` // NOSPACE or CORRUPT
}

// Peer is a member as another one sees it.
type Peer struct {
	ID      uint64   `json:"id"`
	Name    string   `json:"name,omitempty"` // empty: added and never started
	Peers   []string `json:"peers"`
	Clients []string `json:"clients,omitempty"`
	Learner bool     `json:"learner,omitempty"`
}
