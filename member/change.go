package member

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"theseus/api"
)

// Validate tells what the apply of cc refuses, in etcd's order (interop 6.6). A
// removed id answers as an unknown one does, which is what etcd's clients see. A
// context that is no member's is no refusal: Apply reports it.
func (c *Cluster) Validate(cc raftpb.ConfChange, maxLearners int) error {
	what, err := decode(cc)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	if c.Removed(cc.NodeID) {
		return api.ErrMemberNotFound
	}
	known, exists := c.Member(cc.NodeID)
	switch {
	case what.Promote && cc.Type == raftpb.ConfChangeAddNode:
		if !exists {
			return api.ErrMemberNotFound
		}
		if !known.IsLearner {
			return api.ErrMemberNotLearner
		}
	case cc.Type == raftpb.ConfChangeAddNode || cc.Type == raftpb.ConfChangeAddLearnerNode:
		if exists {
			return api.ErrMemberExist
		}
		if c.urlTaken(what.PeerURLs, cc.NodeID) {
			return api.ErrPeerURLExist
		}
		if cc.Type == raftpb.ConfChangeAddLearnerNode && c.learners() >= maxLearners {
			return api.ErrTooManyLearners
		}
	case cc.Type == raftpb.ConfChangeRemoveNode:
		if !exists {
			return api.ErrMemberNotFound
		}
	case cc.Type == raftpb.ConfChangeUpdateNode:
		if !exists {
			return api.ErrMemberNotFound
		}
		if c.urlTaken(what.PeerURLs, cc.NodeID) {
			return api.ErrPeerURLExist
		}
	}
	return nil
}

// Apply carries out a change that Validate let through. An error means that the log
// cannot be trusted: nothing has changed, and the machine must stop.
func (c *Cluster) Apply(cc raftpb.ConfChange) (Change, error) {
	what, err := decode(cc)
	if err != nil {
		return Change{}, err
	}
	m, _ := c.Member(cc.NodeID)
	switch {
	case cc.Type == raftpb.ConfChangeRemoveNode:
		m.ID = cc.NodeID
		c.v2.Touch(2) // etcd deletes one path and makes another
		c.remove(cc.NodeID)
		return Change{Kind: Removed, Member: m}, nil
	case cc.Type == raftpb.ConfChangeUpdateNode:
		m.PeerURLs = what.PeerURLs
		c.v2.Touch(1)
		c.save(m)
		return Change{Kind: Updated, Member: m}, nil
	case what.Promote:
		m.IsLearner = false
		c.v2.Touch(1)
		c.save(m)
		return Change{Kind: Promoted, Member: m}, nil
	default:
		c.v2.Touch(1)
		c.save(what.Member)
		return Change{Kind: Added, Member: what.Member}, nil
	}
}

func (c *Cluster) learners() int {
	n := 0
	for _, m := range c.now.Load().members {
		if m.IsLearner {
			n++
		}
	}
	return n
}

// urlTaken reports whether a member other than id has one of the URLs.
func (c *Cluster) urlTaken(urls []string, id uint64) bool {
	for _, m := range c.now.Load().members {
		if m.ID == id {
			continue
		}
		for _, u := range urls {
			if slices.Contains(m.PeerURLs, u) {
				return true
			}
		}
	}
	return false
}
