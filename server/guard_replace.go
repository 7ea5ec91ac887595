package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"theseus/api"
	"theseus/internal/vfs"
	"theseus/member"
	"theseus/version"
)

const (
	// replaceStep bounds one request of a replacement. A step that fails is tried again
	// at the gate's next look.
	replaceStep = 5 * time.Second
	// promoteEvery is how often a replaced member asks to be promoted.
	promoteEvery = 250 * time.Millisecond
)

// replaceNote is in the data directory from before the old member is removed until the
// new one votes: a replacement that was killed goes on, and a member that somebody else
// has removed is not added again.
type replaceNote struct {
	Format  int   `json:"format"`
	Cluster hexID `json:"cluster_id"`
	Old     hexID `json:"old_member_id"`
}

// notePath begins with a dot: etcd warns of other names in the directory.
func (o Options) notePath() string { return filepath.Join(o.DataDir, ".theseus-replace.json") }

func (a *asker) readNote() (*replaceNote, error) {
	b, err := vfs.ReadFile(a.o.FS, a.o.notePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var n replaceNote
	if err == nil {
		err = json.Unmarshal(b, &n)
	}
	if err != nil {
		return nil, fmt.Errorf("read note of a replacement %s: %w: remove it, and the member by hand", a.o.notePath(), err)
	}
	return &n, nil
}

func (a *asker) writeNote(n replaceNote) error {
	n.Format = recordFormat
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := a.o.FS.MkdirAll(a.o.DataDir, 0o700); err != nil {
		return err
	}
	return vfs.WriteFileAtomic(a.o.FS, a.o.notePath(), append(b, '\n'), 0o600)
}

// replace makes a member that has lost its data a new one: the old member is removed, and
// a learner with the same addresses is added. It may be called again after any error, and
// after a crash: what is done is seen by what the cluster says.
func (g *Gate) replace(ctx context.Context, l *loss, note *replaceNote) (*membership, error) {
	others := others(l.members, l.id)
	if err := g.mayReplace(ctx, l, others); err != nil {
		return nil, err
	}
	cli, err := g.dialOthers(others)
	if err != nil {
		return nil, err
	}
	defer func() { _ = cli.Close() }()
	if err := g.quorumWithout(ctx, cli, l, others); err != nil {
		return nil, err
	}
	if note == nil || uint64(note.Old) != l.id {
		if err := g.writeNote(replaceNote{Cluster: hexID(l.cluster), Old: hexID(l.id)}); err != nil {
			return nil, fmt.Errorf("note what is begun: %w", err)
		}
		g.log.Warn("replacing this member: its data is lost", g.idField("removed-member-id", l.id), g.idField("cluster-id", l.cluster))
	}
	all, err := step(ctx, func(ctx context.Context) (*pb.MemberListResponse, error) {
		r, err := cli.MemberList(ctx)
		return (*pb.MemberListResponse)(r), err
	})
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	if slices.ContainsFunc(all.Members, func(m *pb.Member) bool { return m.ID == l.id }) {
		r, err := step(ctx, func(ctx context.Context) (*pb.MemberRemoveResponse, error) {
			r, err := cli.MemberRemove(ctx, l.id)
			return (*pb.MemberRemoveResponse)(r), err
		})
		if err != nil {
			return nil, fmt.Errorf("remove member %s: %w", formatID(l.id), err)
		}
		g.log.Info("removed the old member", g.idField("removed-member-id", l.id))
		all.Members = r.Members
	}
	id, members := g.waitsForUs(all.Members)
	if id == 0 {
		r, err := step(ctx, func(ctx context.Context) (*pb.MemberAddResponse, error) {
			r, err := cli.MemberAddAsLearner(ctx, g.o.PeerURLs)
			return (*pb.MemberAddResponse)(r), err
		})
		if err != nil {
			return nil, fmt.Errorf("add this member as a learner: %w", err)
		}
		id, members = g.waitsForUs(r.Members)
		g.log.Info("added this member as a learner", g.idField("added-member-id", id))
	}
	if id == 0 {
		return nil, errors.New("the cluster does not list this member after its addition")
	}
	return &membership{cluster: l.cluster, self: id, members: members}, nil
}

// added takes this member in if its replacement has come to where it is added, by itself
// or by somebody's hand.
func (g *Gate) added(note *replaceNote, views []view, rec *birthRecord) bool {
	id, at := g.fresh(views)
	if id == 0 || at.cluster != uint64(note.Cluster) || rec != nil && uint64(rec.MemberID) == id {
		return false
	}
	g.in = &membership{cluster: at.cluster, self: id, members: at.members}
	return true
}

// needsUser tells whether a request was refused because it was nobody's.
func needsUser(err error) bool {
	return strings.Contains(err.Error(), api.ErrUserEmpty.Error()) || strings.Contains(err.Error(), api.ErrPermissionDenied.Error())
}

// step runs one request with its bound.
func step[T any](ctx context.Context, do func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, replaceStep)
	defer cancel()
	return do(ctx)
}

// waitsForUs finds the addition of this member that nobody has started.
func (g *Gate) waitsForUs(all []*pb.Member) (uint64, []member.Member) {
	var id uint64
	members := make([]member.Member, len(all))
	for i, m := range all {
		members[i] = member.Member{ID: m.ID, PeerURLs: m.PeerURLs, IsLearner: m.IsLearner, Name: m.Name, ClientURLs: m.ClientURLs}
		if len(m.ClientURLs) == 0 && sameURLs(g.ctx, m.PeerURLs, g.o.PeerURLs) {
			id = m.ID
		}
	}
	return id, members
}

// mayReplace refuses what would go wrong halfway.
func (g *Gate) mayReplace(ctx context.Context, l *loss, others []member.Member) error {
	if len(others) == 0 {
		return errors.New("no other member answers; it goes on when one does")
	}
	if len(votersOf(others)) < len(votersOf(l.members))/2+1 {
		return errors.New("the other members have no quorum without this one: put its data back, or restore a backup")
	}
	// A server of 3.3 takes the learner for a voter, without a word.
	known := false
	for _, m := range others {
		for _, u := range m.PeerURLs {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			v, err := g.client.GetVersion(ctx, u)
			cancel()
			if err != nil {
				continue
			}
			cv, err := version.Parse(v.Cluster)
			if err == nil && cv.Less(version.V3_4) {
				return fmt.Errorf("the cluster version is %s, and learners are known from 3.4 on: remove member %s and add it again as a voter by hand, then start it with --initial-cluster-state=existing", cv, formatID(l.id))
			}
			known = known || err == nil
		}
	}
	if !known {
		return errors.New("no member tells the cluster version; it goes on when one does")
	}
	return nil
}

func (g *Gate) dialOthers(others []member.Member) (*clientv3.Client, error) {
	var eps []string
	for _, m := range others {
		eps = append(eps, m.ClientURLs...)
	}
	if len(eps) == 0 {
		return nil, errors.New("no other member tells a client URL")
	}
	cfg := clientv3.Config{Endpoints: eps, DialTimeout: replaceStep, Logger: zap.NewNop(), MaxUnaryRetries: 3}
	if slices.ContainsFunc(eps, func(u string) bool { return strings.HasPrefix(u, "https:") || strings.HasPrefix(u, "unixs:") }) {
		cfg.TLS = g.o.ClientTLS
	}
	return clientv3.New(cfg)
}

// quorumWithout wants a quorum of voters to be up without this member, by their own word.
func (g *Gate) quorumWithout(ctx context.Context, cli *clientv3.Client, l *loss, others []member.Member) error {
	voters := votersOf(l.members)
	var down []string
	up := 0
	for _, m := range votersOf(others) {
		if g.follows(ctx, cli, m) {
			up++
		} else {
			down = append(down, m.Name)
		}
	}
	if need := len(voters)/2 + 1; up < need {
		return fmt.Errorf("only %d of the %d voters that a change needs follow a leader (not %s); nothing is removed until they do", up, need, strings.Join(down, ", "))
	}
	return nil
}

func (g *Gate) follows(ctx context.Context, cli *clientv3.Client, m member.Member) bool {
	for _, u := range m.ClientURLs {
		st, err := step(ctx, func(ctx context.Context) (*clientv3.StatusResponse, error) {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			return cli.Status(ctx, u)
		})
		if err != nil && needsUser(err) {
			return true // whoever asks next for a change is told the same
		}
		if err == nil && st.Leader != 0 {
			return true
		}
	}
	return false
}

// finishReplacement has a member that was replaced promoted as soon as the leader says
// that it has caught up.
func (s *Server) finishReplacement(ctx context.Context) {
	note, err := s.readNote()
	if err != nil {
		s.log.Warn("a replacement may be unfinished", zap.Error(err))
		return
	}
	if note == nil {
		return
	}
	ticker := time.NewTicker(promoteEvery)
	defer ticker.Stop()
	said := ""
	for {
		if m, ok := s.members().Member(s.id); ok && !m.IsLearner {
			break
		} else if ok && s.Leader() != 0 {
			err := s.promoteSelf(ctx)
			if err != nil && err.Error() != said && ctx.Err() == nil {
				said = err.Error()
				s.log.Info("waiting to be promoted", s.idField("local-member-id", s.id), zap.Error(err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
	if err := s.o.FS.Remove(s.o.notePath()); err != nil {
		s.log.Warn("the note of the replacement cannot be removed", zap.String("path", s.o.notePath()), zap.Error(err))
	}
	s.log.Info("this member has been replaced and votes again", s.idField("local-member-id", s.id), s.idField("removed-member-id", uint64(note.Old)))
}

func (s *Server) promoteSelf(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, replaceStep)
	defer cancel()
	return s.forwardPromote(ctx, s.id)
}
