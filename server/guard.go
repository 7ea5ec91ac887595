package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"theseus/member"
	"theseus/peer"
	"theseus/wal"
)

// What OnDataLoss may say.
const (
	LossRefuse  = "refuse"
	LossReplace = "replace"
	LossExit    = "exit"
)

// Clocks of a gate.
const (
	// askTimeout bounds one question to one address.
	askTimeout = time.Second
	// clockWarn and clockRefuse are how far clocks may be apart: etcd warns at the
	// first; beyond the second a member is not let into a cluster.
	clockWarn   = time.Second
	clockRefuse = time.Minute
)

// Held says why a member is not let in yet, or not at all as things stand. It goes on
// serving that answer: a refusal that exits is restarted for ever, until somebody ends
// that with another `rm -rf`.
type Held struct {
	// Reason is what is wrong and Next what to do about it, each without a period.
	Reason, Next string
	// Waiting are the members that must answer before anything is wrong at all.
	Waiting []string
	// Lost says that this member's data is lost.
	Lost bool
}

// Error implements error: in one line.
func (h *Held) Error() string {
	if h.Next == "" {
		return h.Reason
	}
	return h.Reason + "; " + h.Next
}

// A Gate stands before New: it lets a member in that has its data, or that is as new as
// it says. One that has lost its data must not come back under its old id: it would have
// forgotten what it voted for and what it acknowledged.
//
// Order of calls: NewGate; serve PeerHandler on the peer addresses; Pass until it returns
// nil, which may be never; then Open, once. Close is for a gate that was not opened.
type Gate struct {
	asker
	cancel context.CancelFunc
	in     *membership // that Pass has found for Open
	begun  bool        // Pass has said that it will replace this member

	mu   sync.Mutex
	self peer.Birth // what others are told
}

// NewGate checks the options.
func NewGate(o Options) (*Gate, error) {
	o, err := o.normalize()
	if err != nil {
		return nil, err
	}
	g := &Gate{}
	if g.asker, g.cancel, err = newAsker(o); err != nil {
		return nil, err
	}
	return g, nil
}

// Close ends the questions that are on their way.
func (g *Gate) Close() {
	g.cancel()
	g.client.Close()
}

// Open makes the member that was let in.
func (g *Gate) Open() (*Server, error) {
	g.Close()
	return open(g.o, g.in)
}

// Version is what the member would speak.
func (g *Gate) Version() string { return g.version.String() }

// PeerHandler answers other members as long as this one is not in: what it is, and
// nothing else. To etcd it looks like a member that has not started.
func (g *Gate) PeerHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/raft/probing", peer.ServeClock)
	mux.HandleFunc(peer.PathBirth, func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		b := g.self
		g.mu.Unlock()
		if b.State == "" { // it has its data, or has not looked yet
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		peer.ServeBirth(w, r, b)
	})
	return mux
}

// tell says what others are told from now on.
func (g *Gate) tell(b peer.Birth) {
	b.Name = g.o.Name
	g.mu.Lock()
	g.self = b
	g.mu.Unlock()
}

// Pass looks once whether this member may start. A *Held is no: ask again later. Any
// other error is for good. Nothing in the data directory has changed then, except that a
// replacement may have begun.
func (g *Gate) Pass(ctx context.Context) error {
	g.in = nil
	if err := g.checkDataDir(); err != nil {
		return err
	}
	if wal.Exists(g.o.FS, g.o.WALDir) || g.o.ForceNewCluster {
		return nil
	}
	if _, err := g.o.FS.Stat(g.o.dbPath()); err == nil {
		if err := g.checkUnusedDB(); err != nil {
			return err
		}
	}
	rec, err := readRecord(g.o.FS, g.o.BirthRecord)
	if err != nil {
		g.tell(peer.Birth{State: peer.BirthLost, Reason: err.Error()})
		return &Held{Reason: err.Error(), Lost: true}
	}
	err = g.decide(ctx, rec)
	if held := (*Held)(nil); errors.As(err, &held) && held.Lost && g.o.OnDataLoss == LossExit {
		return errors.New(held.Error())
	}
	return err
}

// decide is Pass for a directory without data.
func (g *Gate) decide(ctx context.Context, rec *birthRecord) error {
	local, err := g.initialMembers()
	if err != nil {
		return err
	}
	cluster := g.withIDs(local)
	views := g.ask(ctx, local)
	l := g.loss(local, views, rec)
	note, err := g.readNote()
	if err != nil {
		return err
	}
	if note != nil && g.added(note, views, rec) {
		return g.checkClocks(views)
	}
	if l != nil || note != nil {
		if l == nil || l.id == 0 {
			l = &loss{id: uint64(note.Old), cluster: uint64(note.Cluster), members: newestView(views).members}
		}
		return g.lost(ctx, l, note, views)
	}
	if err := g.checkClocks(views); err != nil {
		return err
	}
	if g.o.JoinExisting {
		return g.mayJoin(local, views)
	}
	return g.mayFound(local, cluster, views)
}

// withIDs gives the members the ids that they are founded with, and returns the cluster's.
func (g *Gate) withIDs(local []member.Member) uint64 {
	ids := make([]uint64, len(local))
	for i := range local {
		local[i].ID = member.MemberID(local[i].PeerURLs, g.o.InitialClusterToken, 0)
		ids[i] = local[i].ID
	}
	return member.ClusterID(ids)
}

// ownID is the id that this member is founded with.
func (g *Gate) ownID(local []member.Member) uint64 {
	return local[slices.IndexFunc(local, func(m member.Member) bool { return m.Name == g.o.Name })].ID
}

// view is what one other member says.
type view struct {
	of      member.Member // as the flags know it
	err     error         // it does not answer
	birth   *peer.Birth   // nil if it is none of ours
	cluster uint64
	members []member.Member // nil if it has not started
	offset  time.Duration   // of its clock
	timed   bool            // that offset is known
}

// ask puts all questions to all other members at once.
func (g *Gate) ask(ctx context.Context, local []member.Member) []view {
	var views []view
	for _, m := range local {
		if m.Name != g.o.Name {
			views = append(views, view{of: m})
		}
	}
	var wg sync.WaitGroup
	for i := range views {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			v := &views[i]
			v.err = errors.New("no peer URL")
			for _, u := range v.of.PeerURLs {
				if g.askOne(ctx, u, v); v.err == nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return views
}

func (g *Gate) askOne(ctx context.Context, url string, v *view) {
	b, known, err := g.client.GetBirth(ctx, url)
	if v.err = err; err != nil {
		return
	}
	if offset, err := g.client.ClockOffset(ctx, url); err == nil {
		v.offset, v.timed = offset, true
	}
	if known {
		if v.birth = &b; b.State != peer.BirthBorn {
			return
		}
	}
	all, cluster, err := g.client.GetMembers(ctx, url)
	if v.err = err; err != nil {
		return
	}
	v.cluster, v.members = cluster, nil
	for _, m := range all {
		v.members = append(v.members, member.Member(m))
	}
}

// newestView is the one of the members' answers that knows of the most: members never
// agree to the millisecond, and none says as of when it speaks.
func newestView(views []view) view {
	var best view
	for _, v := range views {
		better := v.birth != nil && (best.birth == nil || v.birth.Applied > best.birth.Applied)
		if len(v.members) > 0 && (len(best.members) == 0 || better) {
			best = v
		}
	}
	return best
}

// checkClocks wants a new member's clock to be near those of the others.
func (g *Gate) checkClocks(views []view) error {
	for _, v := range views {
		switch {
		case v.err != nil || !v.timed:
		case v.offset.Abs() > clockRefuse:
			return &Held{
				Reason: fmt.Sprintf("the clock of this machine and that of member %s are %s apart (%s)", v.of.Name, v.offset.Abs().Round(time.Second), aheadBehind(v.offset)),
				Next:   "set the clock right, by NTP for example: a member whose clock is more than " + clockRefuse.String() + " off is not let into a cluster; this process goes on by itself then",
			}
		case v.offset.Abs() > clockWarn:
			g.log.Warn("prober found high clock drift", zap.String("round-tripper-name", "BIRTH"), zap.String("remote-peer-name", v.of.Name), zap.Duration("clock-drift", v.offset.Abs()))
		}
	}
	return nil
}

func aheadBehind(offset time.Duration) string {
	if offset > 0 {
		return "ours is behind"
	}
	return "ours is ahead"
}

// mayJoin decides for a member that says that its cluster lives, and that does not know
// this member as started.
func (g *Gate) mayJoin(local []member.Member, views []view) error {
	id, _ := g.fresh(views)
	if id == 0 && slices.ContainsFunc(views, func(v view) bool { return v.birth != nil && v.birth.State != peer.BirthBorn }) && newestView(views).members == nil {
		return &Held{
			Reason: "no other member of --initial-cluster has data, so there is no existing cluster to join",
			Next:   "start this member with --initial-cluster-state=new if the cluster is new, or put the data of the others back",
		}
	}
	found, err := g.findCluster(local, id)
	if err != nil {
		return err
	}
	g.in = &found
	return nil
}

// fresh finds the id under which the living cluster waits for this member, and one
// answer that has it; 0 when there is none.
func (g *Gate) fresh(views []view) (uint64, view) {
	started := map[uint64]bool{}
	var id uint64
	var of view
	for _, v := range views {
		for _, m := range v.members {
			if sameURLs(g.ctx, m.PeerURLs, g.o.PeerURLs) && len(m.ClientURLs) > 0 {
				started[m.ID] = true
			}
		}
	}
	for _, v := range views {
		for _, m := range v.members {
			if sameURLs(g.ctx, m.PeerURLs, g.o.PeerURLs) && !started[m.ID] {
				id, of = m.ID, v
			}
		}
	}
	return id, of
}

// mayFound decides for a member that says that its cluster is new: all others must be as
// new, or be of the cluster that is just being founded. A member that does not answer
// could have all the data; while it is not heard, nothing is founded.
func (g *Gate) mayFound(local []member.Member, cluster uint64, views []view) error {
	self := g.ownID(local)
	if err := g.checkArchive(self, cluster); err != nil {
		return err
	}
	g.tell(peer.Birth{State: peer.BirthVirgin, ClusterID: cluster, MemberID: self})
	var waiting []string
	vouched := false
	for _, v := range views {
		switch err := g.newBeside(v, cluster, self); {
		case err != nil:
			return err
		case v.err != nil:
			waiting = append(waiting, v.of.Name+"="+strings.Join(v.of.PeerURLs, ","))
		case v.birth != nil && v.birth.State == peer.BirthBorn:
			vouched = true // it was founded when all others were new, this one included
		}
	}
	if len(waiting) == 0 || vouched {
		return nil
	}
	return &Held{
		Reason:  "waiting for " + strings.Join(waiting, " and ") + ": a new cluster is founded when every member of --initial-cluster has said that it is new too, since one that is down could have the data of an existing one",
		Next:    "start the others; or, to found the cluster without a member that will not come, leave it out of --initial-cluster everywhere, and `member add` it later",
		Waiting: waiting,
	}
}

// newBeside refuses what an answer says against founding the cluster.
func (g *Gate) newBeside(v view, cluster, self uint64) error {
	switch {
	case v.err != nil:
	case v.birth != nil && v.birth.State == peer.BirthLost:
		return &Held{
			Reason: fmt.Sprintf("member %s says that this cluster is not new: %s", v.of.Name, v.birth.Reason),
			Next:   "do not found it again: put the data back or restore a backup; if you do want a new cluster, remove the birth records of the old one first",
		}
	case v.birth != nil && v.birth.State == peer.BirthVirgin && v.birth.ClusterID != cluster:
		return &Held{
			Reason: fmt.Sprintf("member %s was started for cluster %s and this one for %s", v.of.Name, formatID(v.birth.ClusterID), formatID(cluster)),
			Next:   "give all members the same --initial-cluster and --initial-cluster-token",
		}
	case len(v.members) > 0 && !slices.ContainsFunc(v.members, func(m member.Member) bool { return m.ID == self }) && v.cluster == cluster:
		return &Held{
			Reason: fmt.Sprintf("cluster %s lives already, as member %s says, and member %s is not in it", formatID(cluster), v.of.Name, formatID(self)),
			Next:   "`member add` this member, if that has not been done, and start it with --initial-cluster-state=existing and the --initial-cluster that it answers",
		}
	case len(v.members) > 0 && v.cluster != cluster:
		return &Held{
			Reason: fmt.Sprintf("member %s belongs to cluster %s already, and --initial-cluster-state=new asks for cluster %s", v.of.Name, formatID(v.cluster), formatID(cluster)),
			Next:   "to join that cluster, `member add` this member and start it with --initial-cluster-state=existing and the --initial-cluster that it answers",
		}
	}
	return nil
}

// loss is a member whose data is gone.
type loss struct {
	id, cluster uint64
	what        string          // what is known of it
	members     []member.Member // of the cluster, nil if nobody could be asked
}

// loss tells whether this member, without data, had data once: by what the living members
// say, and by the record of its birth.
func (g *Gate) loss(local []member.Member, views []view, rec *birthRecord) *loss {
	fresh, at := g.fresh(views)
	if fresh != 0 && rec != nil && uint64(rec.MemberID) == fresh && uint64(rec.ClusterID) == at.cluster {
		fresh = 0 // it has been there and was lost before it had published itself
	}
	if fresh != 0 && (g.o.JoinExisting || rec == nil) {
		return nil
	}
	self := g.ownID(local)
	for _, v := range views {
		for _, m := range v.members {
			if len(m.ClientURLs) == 0 || m.ID != self && !sameURLs(g.ctx, m.PeerURLs, g.o.PeerURLs) {
				continue
			}
			return &loss{id: m.ID, cluster: v.cluster, members: v.members,
				what: fmt.Sprintf("cluster %s knows it as started", formatID(v.cluster))}
		}
	}
	if rec == nil {
		return nil
	}
	return &loss{id: uint64(rec.MemberID), cluster: uint64(rec.ClusterID), members: sameCluster(views, uint64(rec.ClusterID)),
		what: fmt.Sprintf("by its birth record %s it has had data of cluster %s since %s, last seen on %s at revision %d",
			g.o.BirthRecord, formatID(uint64(rec.ClusterID)), rec.Born.Format(time.RFC3339), rec.Seen.Format(time.RFC3339), rec.Revision)}
}

// sameCluster is the newest answer about a cluster.
func sameCluster(views []view, cluster uint64) []member.Member {
	return newestView(slices.DeleteFunc(slices.Clone(views), func(v view) bool { return v.cluster != cluster })).members
}

// lost holds the member, or replaces it if that was asked for.
func (g *Gate) lost(ctx context.Context, l *loss, note *replaceNote, views []view) error {
	reason := fmt.Sprintf("member %s has already been bootstrapped: %s, but the data directory %s of %q has no data: it was wiped, moved, or is not the one that was mounted before",
		formatID(l.id), l.what, g.o.DataDir, g.o.Name)
	g.tell(peer.Birth{State: peer.BirthLost, MemberID: l.id, ClusterID: l.cluster, Reason: reason})
	held := &Held{Reason: reason, Next: g.nextAfterLoss(l), Lost: true}
	if g.o.OnDataLoss != LossReplace && note == nil {
		return held
	}
	if err := g.checkClocks(views); err != nil {
		return err
	}
	if !g.begun { // it takes seconds: the member is to say so on its ports by then
		g.begun = true
		held.Next = "replacing it: this begins now"
		return held
	}
	in, err := g.replace(ctx, l, note)
	if err != nil {
		held.Next = "replacing it: " + err.Error()
		if needsUser(err) {
			held.Next += "; authentication is on, so this is for root: " + g.byHand(l)
		}
		return held
	}
	g.in = in
	return nil
}

// nextAfterLoss is what an operator may do.
func (g *Gate) nextAfterLoss(l *loss) string {
	if len(others(l.members, l.id)) == 0 {
		start := "or start the other members; "
		if len(g.o.InitialCluster) == 1 {
			start = ""
		}
		return "mount or put back the data directory; " + start + "if all data is gone for good, restore a backup, or, for a cluster that begins at nothing, " + g.forget()
	}
	next := "put the data directory back; or replace the member: " + g.byHand(l)
	if !g.o.JoinExisting {
		return next + ", then start it with --initial-cluster-state=existing and promote it; or start it with --on-data-loss=replace, which does all of that"
	}
	return next + ", after which this process goes on by itself, and promote it; or start it with --on-data-loss=replace, which does all of that"
}

// byHand are the commands that replace the member.
func (g *Gate) byHand(l *loss) string {
	var eps []string
	for _, m := range others(l.members, l.id) {
		eps = append(eps, m.ClientURLs...)
	}
	ctl, first := "`etcdctl --endpoints="+strings.Join(eps, ",")+" member ", ""
	if len(others(l.members, l.id)) < len(l.members) {
		first = ctl + "remove " + formatID(l.id) + "`, then "
	}
	return first + ctl + "add " + g.o.Name + " --learner --peer-urls=" + strings.Join(g.o.PeerURLs, ",") + "`"
}

func (g *Gate) forget() string {
	if g.o.BirthRecord == "" {
		return "wipe all members and start them with --initial-cluster-state=new"
	}
	return "remove " + g.o.BirthRecord + " on every member and start them with --initial-cluster-state=new"
}
