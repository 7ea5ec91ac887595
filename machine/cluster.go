package machine

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/member"
	"theseus/version"
)

// confChange applies a membership change, and tells what to hand to raft: the change
// itself, or one for member 0 when it is refused, which only ends its being pending.
func (m *Machine) confChange(c *call, e raftpb.Entry) error {
	var cc raftpb.ConfChange
	if err := cc.Unmarshal(e.Data); err != nil {
		return fmt.Errorf("decode conf change of entry %d: %w", e.Index, err)
	}
	c.res.ID = cc.ID
	if err := m.members.Validate(cc, m.o.MaxLearners); err != nil {
		c.res.Err = err
		cc.NodeID = 0
		c.effect(ConfChange{Change: cc})
		return nil
	}
	change, err := m.members.Apply(cc)
	if err != nil {
		return fmt.Errorf("apply entry %d: %w", e.Index, err)
	}
	c.effect(ConfChange{Change: cc})
	c.effect(MemberChanged{Change: change})
	if change.Kind == member.Removed && change.Member.ID == m.o.SelfID {
		c.effect(SelfRemoved{})
	}
	return nil
}

func (m *Machine) versionSet(c *call) error {
	var r membershippb.ClusterVersionSetRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	if err := m.setVersion(c, r.Ver); err != nil {
		return err
	}
	return m.nothing(c)
}

// setVersion is the end of a member that is older than the cluster is to be: it must
// not go on, and the entry is not applied.
func (m *Machine) setVersion(c *call, text string) error {
	to, err := version.Parse(text)
	if err != nil {
		return fmt.Errorf("set cluster version: %w", err)
	}
	if err := version.CheckServer(m.o.ServerVersion, to); err != nil {
		return fmt.Errorf("set cluster version %s on server version %s: %w", to, m.o.ServerVersion, err)
	}
	from, had := m.members.Version()
	m.members.SetVersion(to)
	to = to.Trunc()
	c.effect(VersionChanged{From: from, To: to})
	if had && to.Less(from) {
		c.effect(ForceSnapshot{})
	}
	if had && from.Less(to) && m.members.Downgrade().Enabled {
		// Nobody raises it under a downgrade; so this member did not hear of its end.
		m.members.SetDowngrade(member.Downgrade{})
	}
	// Also the first version can be one of 3.4: until then the layout was ours.
	if !m.replaying && !m.storage.Load().IsZero() && !version.LayoutOf(to).Term {
		m.forgetFormat()
	}
	return nil
}

func (m *Machine) attributesSet(c *call) error {
	var r membershippb.ClusterMemberAttrSetRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	attr := r.GetMemberAttributes()
	if err := m.setAttributes(c, r.GetMember_ID(), attr.GetName(), attr.GetClientUrls()); err != nil {
		return err
	}
	return m.nothing(c)
}

func (m *Machine) setAttributes(c *call, id uint64, name string, clientURLs []string) error {
	set, err := m.members.SetAttributes(id, name, clientURLs)
	if err != nil {
		return err
	}
	if set {
		one, _ := m.members.Member(id)
		c.effect(AttributesSet{Member: one})
	}
	return nil
}

func (m *Machine) downgradeSet(c *call) error {
	var r membershippb.DowngradeInfoSetRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	m.members.SetDowngrade(member.Downgrade{Target: r.Ver, Enabled: r.Enabled})
	c.effect(DowngradeChanged{Downgrade: m.members.Downgrade()})
	return c.answer(nil, func() proto.Message { return &pb.EmptyResponse{} })
}

// replay handles an entry that has had its effect, while an old directory's
// membership is built again: what concerns the v2 store is applied to it, and raft
// gets the conf changes; all else is passed over.
func (m *Machine) replay(e raftpb.Entry) Result {
	m.call = call{index: e.Index, res: Result{Skipped: true}}
	err := m.replayEntry(&m.call, e)
	if err != nil {
		return m.stop(fmt.Errorf("replay entry %d (term %d): %w", e.Index, e.Term, err))
	}
	m.position.set(e.Index, e.Term)
	return m.call.res
}

func (m *Machine) replayEntry(c *call, e raftpb.Entry) error {
	if e.Type == raftpb.EntryConfChange {
		return m.confChange(c, e)
	}
	if len(e.Data) == 0 {
		return nil
	}
	kind, err := api.Classify(e.Data)
	if err != nil {
		return err
	}
	if kind != api.Internal {
		err = m.legacy(c, e.Data)
	} else if c.envelope(e.Data) == nil { // what we do not know is done, and no matter
		err = m.replayInternal(c)
	}
	c.res = Result{Skipped: true} // the effects were carried out when the entry was new
	return err
}

// replayInternal repeats what the v2 store holds too.
func (m *Machine) replayInternal(c *call) error {
	switch c.field {
	case api.FieldClusterVersionSet:
		return m.versionSet(c)
	case api.FieldClusterMemberAttrSet:
		return m.attributesSet(c)
	}
	return nil
}
