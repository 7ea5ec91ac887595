package member

import (
	"encoding/json"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
)

// Member is one member. Its JSON is the value in bucket members and the context of
// a conf change, in etcd's order of fields (interop 4.7).
type Member struct {
	ID         uint64   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	IsLearner  bool     `json:"isLearner,omitempty"`
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// Started reports whether the member has published itself.
func (m Member) Started() bool { return m.Name != "" }

// Downgrade is the replicated state of a downgrade; its JSON is the value of
// cluster/downgrade.
type Downgrade struct {
	Target  string `json:"target-version"`
	Enabled bool   `json:"enabled"`
	// Applied is ours: at a cluster version below 3.5 the applied index is noted with
	// the downgrade. Where the database's index is another, a server that knows of no
	// downgrade has run since, which means that the downgrade has taken place.
	Applied uint64 `json:"theseus-applied,omitempty"`
}

// Kind says what a membership change did.
type Kind int

// The kinds of change.
const (
	Added Kind = iota + 1
	Removed
	Updated
	Promoted
)

var kindNames = map[Kind]string{Added: "added", Removed: "removed", Updated: "updated", Promoted: "promoted"}

// String names the kind as a log line would.
func (k Kind) String() string { return kindNames[k] }

// Change is an applied membership change. Member is as it is after the change; for
// Removed it is what was known of it.
type Change struct {
	Kind   Kind
	Member Member
}

// changeContext is the context of a conf change. isPromote is read by 3.4 and newer.
type changeContext struct {
	Member
	Promote bool `json:"isPromote,omitempty"`
}

// Context returns the context of a ConfChange that adds or updates m, or with
// promote the one that makes learner m.ID a voter.
func Context(m Member, promote bool) []byte {
	if promote {
		m = Member{ID: m.ID}
	}
	return marshal(changeContext{Member: m, Promote: promote})
}

// decode reads what cc is about. An error is a log that cannot be trusted: every
// etcd dies of it.
func decode(cc raftpb.ConfChange) (changeContext, error) {
	if cc.Type == raftpb.ConfChangeRemoveNode {
		return changeContext{Member: Member{ID: cc.NodeID}}, nil
	}
	if _, ok := raftpb.ConfChangeType_name[int32(cc.Type)]; !ok {
		return changeContext{}, fmt.Errorf("conf change of unknown type %d", cc.Type)
	}
	var c changeContext
	if err := json.Unmarshal(cc.Context, &c); err != nil {
		return c, fmt.Errorf("decode context of conf change for member %x: %w", cc.NodeID, err)
	}
	if c.ID != cc.NodeID {
		return c, fmt.Errorf("conf change for member %x has the context of member %x", cc.NodeID, c.ID)
	}
	return c, nil
}

// marshal writes JSON as etcd does; our own structs cannot fail.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("member: encode %T: %v", v, err))
	}
	return b
}

func find(members []Member, id uint64) (int, bool) {
	return slices.BinarySearchFunc(members, id, func(m Member, id uint64) int {
		switch {
		case m.ID < id:
			return -1
		case m.ID > id:
			return 1
		}
		return 0
	})
}
