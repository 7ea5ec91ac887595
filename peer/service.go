package peer

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/version"
)

// ErrNotPrimary is what a Lessor returns when this member is not, or no longer, the
// one that keeps the clocks of leases.
var ErrNotPrimary = errors.New("not a primary lessor")

// Member is a member as /members lists it.
type Member struct {
	ID         uint64   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	IsLearner  bool     `json:"isLearner,omitempty"`
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// Versions is what /version answers. Cluster is "not_decided" for a while.
type Versions struct {
	Server  string `json:"etcdserver"`
	Cluster string `json:"etcdcluster"`
	Storage string `json:"storage,omitempty"`
	// Theseus tells that the member is no etcd. It is a header of the answer.
	Theseus bool `json:"-"`
}

// headerTheseus is on our answer to /version, with the server version we really are.
const headerTheseus = "X-Theseus-Version"

// HashKV is the answer of /members/hashkv: a hash up to HashRevision of a member
// that is at Revision.
type HashKV struct {
	Revision        int64
	Hash            uint32
	CompactRevision int64
	HashRevision    int64 // 0 from members up to 3.5
}

// The requests that members make of each other, besides raft's. The server implements
// them; errors are api's, where it has one, and become the statuses that etcd gives.
type (
	// MemberLister lists the members sorted by id.
	MemberLister interface{ PeerMembers() []Member }
	// Versioner is /version; an empty storage is left out.
	Versioner interface {
		Versions() (server, cluster, storage string)
	}
	// Hasher is /members/hashkv. rev 0 is the current revision.
	Hasher interface {
		PeerHashKV(ctx context.Context, rev int64) (HashKV, error)
	}
	// Lessor is /leases and /leases/internal. WaitApplied returns once everything is
	// applied that is committed now.
	Lessor interface {
		WaitApplied(ctx context.Context) error
		PrimaryRenew(ctx context.Context, id int64) (ttl int64, err error)
		PrimaryTimeToLive(ctx context.Context, id int64, keys bool) (*pb.LeaseTimeToLiveResponse, error)
	}
	// Promoter is /members/promote; token is the client's, "" if there is none.
	Promoter interface {
		PeerPromote(ctx context.Context, id uint64, token string) ([]Member, error)
	}
	// Downgrader is /downgrade/enabled.
	Downgrader interface {
		DowngradeEnabled(ctx context.Context) (bool, error)
	}
)

// Service is all of them.
type Service interface {
	MemberLister
	Versioner
	Hasher
	Lessor
	Promoter
	Downgrader
}

// Times that the answers may take.
const (
	waitApplied    = time.Second     // of a lease request for the applied index; then 408
	serviceTimeout = 7 * time.Second // of everything else
)

// ServiceHandler answers /members, /members/promote/, /members/hashkv, /version,
// /leases, /leases/internal and /downgrade/enabled on the peer listeners.
func ServiceHandler(clusterID uint64, s Service, lg *zap.Logger) http.Handler {
	if lg == nil {
		lg = zap.NewNop()
	}
	h := &service{s: s, clusterID: hexID(clusterID), lg: lg}
	mux := http.NewServeMux()
	mux.HandleFunc("/members", h.members)
	mux.HandleFunc("/members/promote/", h.promote)
	mux.HandleFunc("/members/hashkv", h.hashKV)
	mux.HandleFunc("/version", h.version)
	mux.HandleFunc("/leases", h.leases)
	mux.HandleFunc("/leases/internal", h.leasesInternal)
	mux.HandleFunc("/downgrade/enabled", h.downgradeEnabled)
	return mux
}

type service struct {
	s         Service
	clusterID string
	lg        *zap.Logger
}

func (h *service) allow(w http.ResponseWriter, r *http.Request, method string) bool {
	if r.Method == method {
		return true
	}
	w.Header().Set("Allow", method)
	refuse(w, http.StatusMethodNotAllowed, "Method Not Allowed")
	return false
}

// context is the request's without its end: on a peer listener a connection that
// waits for an answer counts as idle after five seconds, and ends the context.
func (h *service) context(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.Context()), serviceTimeout)
}

// writeJSON answers with v. A failed write is the caller's loss.
func (h *service) writeJSON(w http.ResponseWriter, v any, end string) {
	b, err := json.Marshal(v)
	if err != nil {
		h.lg.Error("cannot encode an answer", zap.Error(err))
		refuse(w, http.StatusInternalServerError, "Internal Server Error")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, end...))
}

func (h *service) members(w http.ResponseWriter, r *http.Request) {
	if !h.allow(w, r, http.MethodGet) {
		return
	}
	w.Header().Set("X-Etcd-Cluster-ID", h.clusterID)
	h.writeJSON(w, nonNil(h.s.PeerMembers()), "\n")
}

// nonNil makes an empty list of members one in JSON too.
func nonNil(ms []Member) []Member {
	if ms == nil {
		return []Member{}
	}
	return ms
}

func (h *service) version(w http.ResponseWriter, r *http.Request) {
	if !h.allow(w, r, http.MethodGet) {
		return
	}
	var v Versions
	v.Server, v.Cluster, v.Storage = h.s.Versions()
	w.Header().Set(headerTheseus, version.Current.String())
	h.writeJSON(w, v, "")
}

func (h *service) downgradeEnabled(w http.ResponseWriter, r *http.Request) {
	if !h.allow(w, r, http.MethodGet) {
		return
	}
	w.Header().Set("X-Etcd-Cluster-ID", h.clusterID)
	ctx, cancel := h.context(r)
	defer cancel()
	on, err := h.s.DowngradeEnabled(ctx)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, strconv.FormatBool(on))
}

func (h *service) promote(w http.ResponseWriter, r *http.Request) {
	if !h.allow(w, r, http.MethodPost) {
		return
	}
	w.Header().Set("X-Etcd-Cluster-ID", h.clusterID)
	idStr := strings.TrimPrefix(r.URL.Path, "/members/promote/")
	id, err := strconv.ParseUint(idStr, 10, 64)
	if err != nil {
		refuse(w, http.StatusNotFound, "member "+idStr+" not found in cluster")
		return
	}
	ctx, cancel := h.context(r)
	defer cancel()
	ms, err := h.s.PeerPromote(ctx, id, r.Header.Get("Authorization"))
	if err != nil {
		refuse(w, promoteStatus(err), err.Error())
		return
	}
	h.writeJSON(w, nonNil(ms), "\n")
}

func promoteStatus(err error) int {
	switch {
	case errors.Is(err, api.ErrMemberNotFound):
		return http.StatusNotFound
	case errors.Is(err, api.ErrMemberNotLearner), errors.Is(err, api.ErrLearnerNotReady):
		return http.StatusPreconditionFailed
	case isTimeout(err):
		return http.StatusRequestTimeout
	}
	return http.StatusInternalServerError
}

func isTimeout(err error) bool {
	for _, e := range []error{
		context.DeadlineExceeded, api.ErrTimeout, api.ErrTimeoutDueToLeaderFail,
		api.ErrTimeoutDueToConnectionLost, api.ErrTimeoutWaitAppliedIndex,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// hashRequest and hashAnswer are the bodies of /members/hashkv.
type (
	hashRequest struct {
		Revision int64 `json:"revision,omitempty"`
	}
	hashAnswer struct {
		Header          hashHeader `json:"header"`
		Hash            uint32     `json:"hash,omitempty"`
		CompactRevision int64      `json:"compact_revision,omitempty"`
		HashRevision    int64      `json:"hash_revision,omitempty"`
	}
	hashHeader struct {
		Revision int64 `json:"revision,omitempty"`
	}
)

func (h *service) hashKV(w http.ResponseWriter, r *http.Request) {
	if !h.allow(w, r, http.MethodGet) {
		return
	}
	w.Header().Set("X-Etcd-Cluster-ID", h.clusterID)
	if id := r.Header.Get("X-Etcd-Cluster-ID"); id != "" && id != h.clusterID {
		refuse(w, http.StatusPreconditionFailed, textClusterMismatch)
		return
	}
	body, ok := h.body(w, r)
	if !ok {
		return
	}
	var req hashRequest
	if err := json.Unmarshal(body, &req); err != nil {
		refuse(w, http.StatusBadRequest, "error unmarshalling request")
		return
	}
	ctx, cancel := h.context(r)
	defer cancel()
	a, err := h.s.PeerHashKV(ctx, req.Revision)
	if err != nil {
		// Callers look for the text of a compacted or future revision, which has no prefix here.
		refuse(w, http.StatusBadRequest, strings.TrimPrefix(err.Error(), "etcdserver: "))
		return
	}
	h.writeJSON(w, hashAnswer{
		Header: hashHeader{a.Revision}, Hash: a.Hash, CompactRevision: a.CompactRevision, HashRevision: a.HashRevision,
	}, "")
}

// body reads a small request; what is larger gets 413.
func (h *service) body(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	b, err := readBody(r.Body, maxRequestBody)
	switch {
	case errors.Is(err, errFrameSize):
		refuse(w, http.StatusRequestEntityTooLarge, "request body too large")
	case err != nil:
		refuse(w, http.StatusBadRequest, "error reading body")
	}
	return b, err == nil
}

// applied waits until what is committed is applied, so that a lease granted through
// another member is known here.
func (h *service) applied(w http.ResponseWriter, r *http.Request) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), waitApplied)
	defer cancel()
	if err := h.s.WaitApplied(ctx); err != nil {
		refuse(w, http.StatusRequestTimeout, "waiting for node to catch up its applied index has timed out")
		return false
	}
	return true
}

func (h *service) leases(w http.ResponseWriter, r *http.Request) {
	if !h.allow(w, r, http.MethodPost) {
		return
	}
	b, ok := h.body(w, r)
	if !ok {
		return
	}
	var req pb.LeaseKeepAliveRequest
	if err := proto.Unmarshal(b, &req); err != nil {
		refuse(w, http.StatusBadRequest, "error unmarshalling request")
		return
	}
	if !h.applied(w, r) {
		return
	}
	ctx, cancel := h.context(r)
	defer cancel()
	ttl, err := h.s.PrimaryRenew(ctx, req.ID)
	if err != nil {
		refuseLease(w, err, http.StatusBadRequest)
		return
	}
	h.writeProto(w, &pb.LeaseKeepAliveResponse{ID: req.ID, TTL: ttl})
}

func (h *service) leasesInternal(w http.ResponseWriter, r *http.Request) {
	if !h.allow(w, r, http.MethodPost) {
		return
	}
	b, ok := h.body(w, r)
	if !ok {
		return
	}
	inner, err := unwrapLease(b)
	var req pb.LeaseTimeToLiveRequest
	if err == nil {
		err = proto.Unmarshal(inner, &req)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "error unmarshalling request")
		return
	}
	if !h.applied(w, r) {
		return
	}
	ctx, cancel := h.context(r)
	defer cancel()
	resp, err := h.s.PrimaryTimeToLive(ctx, req.ID, req.Keys)
	if err != nil {
		refuseLease(w, err, http.StatusInternalServerError)
		return
	}
	if resp.Header == nil {
		resp.Header = &pb.ResponseHeader{} // a member of etcd fills it in, and dies if there is none
	}
	b, err = proto.Marshal(resp)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	writeBytes(w, wrapLease(b))
}

func refuseLease(w http.ResponseWriter, err error, other int) {
	if errors.Is(err, api.ErrLeaseNotFound) {
		refuse(w, http.StatusNotFound, textLeaseNotFound)
		return
	}
	refuse(w, other, err.Error())
}

const textLeaseNotFound = "lease not found"

func (h *service) writeProto(w http.ResponseWriter, m proto.Message) {
	b, err := proto.Marshal(m)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	writeBytes(w, b)
}

func writeBytes(w http.ResponseWriter, b []byte) {
	w.Header().Set("Content-Type", "application/protobuf")
	_, _ = w.Write(b)
}
