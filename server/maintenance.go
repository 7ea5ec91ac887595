package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/backend"
	"theseus/member"
	"theseus/version"
)

// errTransferTimeout is not in etcd's table, so it arrives as Unknown.
var errTransferTimeout = errors.New("etcdserver: request timed out, leader transfer took too long")

// Alarm lists, raises or lowers alarms.
func (s *Server) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	switch r.Action {
	case pb.AlarmRequest_GET:
		return s.listAlarms(ctx, r)
	case pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE:
	default:
		return nil, api.ErrUnknownMethod
	}
	if r.Alarm == pb.AlarmType_CORRUPT && !s.allowed(version.CorruptAlarm) {
		return nil, api.ErrNotCapable
	}
	m, err := s.request(ctx, fieldAlarm, encoded(r, nil), adminOnly)
	return answer[*pb.AlarmResponse](m, err)
}

func (s *Server) listAlarms(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	if _, err := s.asUser(ctx); err != nil {
		return nil, err
	}
	if err := s.LinearizableReadNotify(ctx); err != nil {
		return nil, err
	}
	resp := &pb.AlarmResponse{Header: s.Header(0)}
	for _, a := range s.Alarms() {
		if r.Alarm == pb.AlarmType_NONE || r.Alarm == a.Alarm {
			resp.Alarms = append(resp.Alarms, a)
		}
	}
	return resp, nil
}

// Alarms lists the raised alarms.
func (s *Server) Alarms() []*pb.AlarmMember { return s.store.Load().mach.Alarms() }

// Status describes this member.
func (s *Server) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	if _, err := s.asUser(ctx); err != nil {
		return nil, err
	}
	st, err := s.acquire()
	if err != nil {
		return nil, err
	}
	defer st.release()
	at := s.node.Status()
	resp := &pb.StatusResponse{
		Header: s.Header(0), Version: s.version.String(), Leader: s.Leader(),
		RaftIndex: at.Commit, RaftTerm: at.Term, RaftAppliedIndex: s.applied.Current(),
		DbSize: st.be.Size(), DbSizeInUse: st.be.SizeInUse(), DbSizeQuota: s.quota(), IsLearner: s.IsLearner(),
	}
	_, _, resp.StorageVersion = s.Versions()
	if d := st.mach.Members().Downgrade(); s.version.AtLeast(version.V3_6) {
		resp.DowngradeInfo = &pb.DowngradeInfo{Enabled: d.Enabled, TargetVersion: d.Target}
	}
	if resp.Leader == raft.None {
		resp.Errors = append(resp.Errors, api.ErrNoLeader.Error())
	}
	if why := s.fenced(); why != nil {
		resp.Errors = append(resp.Errors, why.String())
	}
	for _, a := range st.mach.Alarms() {
		resp.Errors = append(resp.Errors, fmt.Sprintf("memberID:%d alarm:%s", a.MemberID, a.Alarm))
	}
	return resp, nil
}

// quota is the limit of the db file, 0 when there is none.
func (s *Server) quota() int64 {
	switch q := s.o.QuotaBytes; {
	case q < 0:
		return 0
	case q == 0:
		return defaultQuotaBytes
	default:
		return q
	}
}

// admitSpace refuses what would not fit below the quota, and raises the alarm.
func (s *Server) admitSpace(r proto.Message) error {
	if s.store.Load().mach.QuotaAvailable(r) {
		return nil
	}
	s.raiseNoSpace()
	return api.ErrNoSpace
}

// raiseNoSpace proposes this member's NOSPACE alarm, once at a time.
func (s *Server) raiseNoSpace() {
	for _, a := range s.Alarms() {
		if a.MemberID == s.id && a.Alarm == pb.AlarmType_NOSPACE {
			return
		}
	}
	if !s.raising.CompareAndSwap(false, true) {
		return
	}
	s.log.Warn("message exceeded backend quota; raising alarm", zap.Int64("quota-size-bytes", s.quota()))
	_ = s.tasks.Go(func() {
		defer s.raising.Store(false)
		s.raiseAlarm(s.ctx, s.id, pb.AlarmType_NOSPACE)
	})
}

// raiseAlarm proposes an alarm of a member (0: it is not known which).
func (s *Server) raiseAlarm(ctx context.Context, id uint64, kind pb.AlarmType) {
	ctx, cancel := context.WithTimeout(ctx, s.o.requestTimeout())
	defer cancel()
	r := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: id, Alarm: kind}
	if o := s.requestAs(ctx, s.rootHeader(), fieldAlarm, encoded(r, nil), nil); o.Err != nil && ctx.Err() == nil {
		s.log.Warn("failed to raise alarm", zap.Stringer("alarm", kind), zap.Error(o.Err))
	}
}

// Defragment gives unused space of the db file back, while requests are served.
func (s *Server) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	if err := s.asAdmin(ctx); err != nil {
		return nil, err
	}
	st, err := s.acquire()
	if err != nil {
		return nil, err
	}
	defer st.release()
	s.defragging.Add(1)
	s.metrics.defragInflight.Set(1)
	start, before := time.Now(), st.be.Size()
	s.log.Info("starting defragment", zap.Int64("current-db-size-bytes", before), zap.Int64("current-db-size-in-use-bytes", st.be.SizeInUse()))
	err = st.be.Defrag(ctx, nil)
	if s.defragging.Add(-1) == 0 {
		s.metrics.defragInflight.Set(0)
	}
	s.metrics.defragSeconds.Observe(time.Since(start).Seconds())
	if err != nil {
		s.log.Warn("failed to defragment", zap.Error(err))
		return nil, err
	}
	s.log.Info("finished defragment", zap.Int64("current-db-size-bytes-diff", st.be.Size()-before),
		zap.Int64("current-db-size-bytes", st.be.Size()), zap.Duration("took", time.Since(start)))
	return &pb.DefragmentResponse{}, nil
}

// Defragmenting reports whether a defragmentation is running.
func (s *Server) Defragmenting() bool { return s.defragging.Load() > 0 }

// Hash is a checksum of the whole db, for tests.
func (s *Server) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	if err := s.asAdmin(ctx); err != nil {
		return nil, err
	}
	var hash uint32
	start := time.Now()
	err := s.holding(func(st *store) (err error) { hash, err = st.be.Hash(hashSkips); return err })
	if err != nil {
		return nil, err
	}
	s.metrics.hashSeconds.Observe(time.Since(start).Seconds())
	return &pb.HashResponse{Header: s.Header(0), Hash: hash}, nil
}

// hashSkips names what differs between equal members (interop 4.13).
func hashSkips(bucket backend.Bucket, key []byte) bool {
	if bucket != "meta" {
		return false
	}
	switch string(key) {
	case "consistent_index", "term", "storageVersion":
		return true
	}
	return false
}

// HashKV is the checksum of keys up to a revision, equal on all members.
func (s *Server) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	if err := s.asAdmin(ctx); err != nil {
		return nil, err
	}
	h, err := s.hashKV(r.Revision)
	if err != nil {
		return nil, err
	}
	return &pb.HashKVResponse{Header: s.Header(h.Revision), Hash: h.Hash, CompactRevision: h.CompactRevision, HashRevision: h.HashRevision}, nil
}

// Snapshot opens an image of the db: its bytes without trailer, how many, and the
// storage version for the messages ("" below 3.6).
func (s *Server) Snapshot(ctx context.Context) (image io.ReadCloser, size int64, storageVersion string, err error) {
	if err := s.asAdmin(ctx); err != nil {
		return nil, 0, "", err
	}
	if err := s.fenceError(); err != nil {
		return nil, 0, "", err
	}
	st, err := s.acquire()
	if err != nil {
		return nil, 0, "", err
	}
	defer st.release()
	shot, err := st.be.Snapshot()
	if err != nil {
		return nil, 0, "", err
	}
	if v, ok := st.mach.StorageVersion(); ok && v.AtLeast(version.V3_6) {
		storageVersion = v.String()
	}
	start := time.Now()
	r := s.stream(shot, func() { s.metrics.snapshotSeconds.Observe(time.Since(start).Seconds()) })
	return r, shot.Size(), storageVersion, nil
}

// imageReader reads what a backend snapshot writes.
type imageReader struct {
	*io.PipeReader
	done chan struct{}
}

// Close ends the writer and waits until it has let go of the image.
func (r *imageReader) Close() error {
	err := r.PipeReader.Close()
	<-r.done
	return err
}

// stream turns a backend snapshot, which writes, into a reader; it closes the
// snapshot when all is written or the reader is closed.
func (s *Server) stream(shot *backend.Snapshot, ended func()) io.ReadCloser {
	pr, pw := io.Pipe()
	r := &imageReader{PipeReader: pr, done: make(chan struct{})}
	write := func() {
		defer close(r.done)
		stop := context.AfterFunc(s.ctx, func() { pw.CloseWithError(api.ErrStopped) })
		defer stop()
		_, err := shot.WriteTo(pw)
		if cerr := shot.Close(); err == nil {
			err = cerr
		}
		pw.CloseWithError(err)
		ended()
	}
	if !s.tasks.Go(write) {
		pr.CloseWithError(api.ErrStopped) // so that write ends at once
		write()
	}
	return r
}

// ExpectTransfer keeps proposals back until there is another leader, half an election
// timeout at most.
func (s *Server) ExpectTransfer(ctx context.Context) error {
	if err := s.asAdmin(ctx); err != nil {
		return err
	}
	s.node.Hold(max(1, s.o.ElectionTicks/2))
	return nil
}

// MoveLeader hands leadership to r.TargetID and waits for it.
func (s *Server) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if err := s.asAdmin(ctx); err != nil {
		return nil, err
	}
	if !s.isLeader() {
		return nil, api.ErrNotLeader
	}
	if m, ok := s.members().Member(r.TargetID); !ok || m.IsLearner {
		return nil, api.ErrBadLeaderTransferee
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.requestTimeout())
	defer cancel()
	if err := s.moveLeader(ctx, r.TargetID); err != nil {
		return nil, err
	}
	return &pb.MoveLeaderResponse{}, nil
}

// moveLeader hands leadership to a voter and waits until it leads. It gives up early
// when the voter cannot be reached any more.
func (s *Server) moveLeader(ctx context.Context, to uint64) error {
	start := time.Now()
	s.log.Info("leadership transfer starting", s.idField("local-member-id", s.id), s.idField("transferee-member-id", to))
	s.node.TransferLeader(to)
	look := time.NewTicker(s.o.Tick)
	defer look.Stop()
	for {
		changed := s.lead.watch()
		if s.Leader() == to {
			s.log.Info("leadership transfer finished", s.idField("transferee-member-id", to), zap.Duration("took", time.Since(start)))
			return nil
		}
		if to != s.id && s.transport.ActiveSince(to).IsZero() {
			return fmt.Errorf("%w: member %s cannot be reached", errTransferTimeout, formatID(to))
		}
		select {
		case <-changed:
		case <-look.C:
		case <-s.nodeDone:
			return api.ErrStopped
		case <-ctx.Done():
			return errTransferTimeout
		}
	}
}

// Downgrade checks, starts or ends the lowering of the cluster version.
func (s *Server) Downgrade(ctx context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	if err := s.asAdmin(ctx); err != nil {
		return nil, err
	}
	if err := s.LinearizableReadNotify(ctx); err != nil {
		return nil, err
	}
	cv, _ := s.members().Version()
	var info *pb.DowngradeInfo
	switch r.Action {
	case pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE:
		target, err := version.ValidateDowngrade(cv, r.Version, downgradeState(s.members().Downgrade()), s.farDowngrade(ctx))
		if err != nil {
			return nil, downgradeError(err)
		}
		info = &pb.DowngradeInfo{Enabled: true, TargetVersion: target.String()}
	case pb.DowngradeRequest_CANCEL:
		info = &pb.DowngradeInfo{}
	default:
		return nil, api.ErrUnknownMethod
	}
	if r.Action != pb.DowngradeRequest_VALIDATE {
		if err := s.setDowngrade(ctx, info); err != nil {
			return nil, err
		}
	}
	return &pb.DowngradeResponse{Header: s.Header(0), Version: cv.MinorString()}, nil
}

func downgradeState(d member.Downgrade) version.Downgrade {
	if !d.Enabled {
		return version.Downgrade{}
	}
	t, err := version.Parse(d.Target)
	return version.Downgrade{Enabled: err == nil, Target: t}
}

func downgradeError(err error) error {
	switch err {
	case version.ErrDowngradeFormat:
		return api.ErrWrongDowngradeVersionFormat
	case version.ErrDowngradeTarget, version.ErrDowngradeFar:
		return api.ErrInvalidDowngradeTargetVersion
	case version.ErrDowngradeInProcess:
		return api.ErrDowngradeInProcess
	case version.ErrClusterVersionUnset:
		return api.ErrClusterVersionUnavailable
	default:
		return err
	}
}
