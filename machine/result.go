package machine

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"theseus/lease"
	"theseus/member"
	"theseus/mvcc"
	"theseus/version"
)

// Result is what the apply of one entry did.
type Result struct {
	// ID is the request's id, by which its proposer waits; 0 when there is none.
	ID uint64
	// Resp is the answer when mine was true and Err is nil. Its header, where the
	// answer has one, holds the revision only.
	Resp proto.Message
	// Err is the error that the proposer gets.
	Err error
	// Fatal says that the log holds what this member must not guess: stop, change
	// nothing more. The entry is not applied.
	Fatal error
	// Events are the changes of keys, for watchers.
	Events []mvcc.Event
	// Effects are what else the shell around the machine must do or know.
	Effects []Effect
	// Skipped says that the entry was applied before this start.
	Skipped bool
}

// Effect is one thing that the shell around the machine must do or know.
type Effect interface{ effect() }

// The effects.
type (
	// ConfChange must be handed to raft's ApplyConfChange, and what that returns to
	// SetConfState. NodeID is 0 when the change was refused.
	ConfChange struct{ Change raftpb.ConfChange }
	// MemberChanged tells transport and metrics about a change of membership.
	MemberChanged struct{ Change member.Change }
	// SelfRemoved says that this member is no longer in the cluster: stop a second later.
	SelfRemoved struct{}
	// AttributesSet says that a member published itself.
	AttributesSet struct{ Member member.Member }
	// VersionChanged says that the cluster version is now To; From is zero the first time.
	VersionChanged struct{ From, To version.Version }
	// DowngradeChanged says that a downgrade was asked for or ended.
	DowngradeChanged struct{ Downgrade member.Downgrade }
	// ForceSnapshot asks for a disk snapshot at exactly this entry (interop 9.7).
	ForceSnapshot struct{}
	// TermStarted is the first entry of a leader's term.
	TermStarted struct{ Term uint64 }
	// AlarmChanged says that an alarm was raised or cleared.
	AlarmChanged struct {
		Alarm  *pb.AlarmMember
		Active bool
	}
	// NoSpace says that a request was applied although it did not fit: propose a
	// NOSPACE alarm, unless one is raised.
	NoSpace struct{}
	// CompactionScheduled says that revisions up to Rev wait for CompactStep.
	CompactionScheduled struct{ Rev int64 }
	// TokenAssigned says that User now holds the simple token Token.
	TokenAssigned struct{ Token, User string }
	// TokensDropped says that the tokens of User, or of all when it is empty, are void.
	TokensDropped struct{ User string }
	// LeaseGranted, LeaseRevoked and LeaseCheckpointed are for the lessor's clock.
	LeaseGranted struct{ Lease lease.Lease }
	// LeaseRevoked says that a lease is gone.
	LeaseRevoked struct{ ID int64 }
	// LeaseCheckpointed says how many seconds a lease has left.
	LeaseCheckpointed struct{ ID, Remaining int64 }
	// LegacyRequest says that a v2 request of a user was applied to the v2 tree.
	LegacyRequest struct{ Method, Path string }
)

func (ConfChange) effect()          {}
func (MemberChanged) effect()       {}
func (SelfRemoved) effect()         {}
func (AttributesSet) effect()       {}
func (VersionChanged) effect()      {}
func (DowngradeChanged) effect()    {}
func (ForceSnapshot) effect()       {}
func (TermStarted) effect()         {}
func (AlarmChanged) effect()        {}
func (NoSpace) effect()             {}
func (CompactionScheduled) effect() {}
func (TokenAssigned) effect()       {}
func (TokensDropped) effect()       {}
func (LeaseGranted) effect()        {}
func (LeaseRevoked) effect()        {}
func (LeaseCheckpointed) effect()   {}
func (LegacyRequest) effect()       {}
