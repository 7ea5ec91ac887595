package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"theseus/api"
)

// Client makes the requests of Service at other members. Its methods may be called
// from any goroutine; each takes one peer url, and ends with ctx.
type Client struct{ http http.Client }

// NewClient returns a client that shows and demands tlsConfig on https urls.
// dialTimeout 0 is the default of Options.
func NewClient(tlsConfig *tls.Config, dialTimeout time.Duration) *Client {
	o := Options{TLS: tlsConfig, DialTimeout: dialTimeout}
	o.setDefaults()
	return &Client{http.Client{
		Transport: o.roundTripper(0, 0),
		// A redirect would lead a token, or a lease, to who knows whom.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// failure describes an answer that none of the known ones fits.
func (a *answer) failure(what string) error {
	return fmt.Errorf("%s: status %d: %s", what, a.status, strings.TrimSpace(string(a.body[:min(len(a.body), 1<<10)])))
}

func (c *Client) do(ctx context.Context, method, url, contentType string, body []byte, headers ...string) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := readBody(resp.Body, maxResponseBody)
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", url, err)
	}
	return &answer{resp.StatusCode, resp.Header, b}, nil
}

// getJSON is for requests that have one good answer.
func (c *Client) getJSON(ctx context.Context, url, path string, v any) (*answer, error) {
	a, err := c.do(ctx, http.MethodGet, trimURL(url)+path, "", nil)
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		return nil, a.failure("get " + trimURL(url) + path)
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		return nil, fmt.Errorf("decode %s%s: %w", trimURL(url), path, err)
	}
	return a, nil
}

func trimURL(s string) string { return strings.TrimRight(s, "/") }

// GetMembers asks for the members and the cluster id.
func (c *Client) GetMembers(ctx context.Context, url string) (members []Member, clusterID uint64, err error) {
	a, err := c.getJSON(ctx, url, "/members", &members)
	if err != nil {
		return nil, 0, err
	}
	clusterID, err = strconv.ParseUint(a.header.Get("X-Etcd-Cluster-ID"), 16, 64)
	if err != nil {
		return nil, 0, fmt.Errorf("cluster id of %s: %w", url, err)
	}
	return members, clusterID, nil
}

// GetVersion asks for the versions.
func (c *Client) GetVersion(ctx context.Context, url string) (v Versions, err error) {
	a, err := c.getJSON(ctx, url, "/version", &v)
	if err == nil {
		v.Theseus = a.header.Get(headerTheseus) != ""
	}
	return v, err
}

// DowngradeEnabled asks whether a downgrade is under way. A member that does not know
// the question, of 3.4 or older, has none.
func (c *Client) DowngradeEnabled(ctx context.Context, url string) (bool, error) {
	a, err := c.do(ctx, http.MethodGet, trimURL(url)+"/downgrade/enabled", "", nil)
	switch {
	case err != nil:
		return false, err
	case a.status == http.StatusNotFound:
		return false, nil
	case a.status != http.StatusOK:
		return false, a.failure("ask whether a downgrade is enabled")
	}
	return strconv.ParseBool(strings.TrimSpace(string(a.body)))
}

// HashKV asks for the hash at rev, 0 for the current revision. api.ErrCompacted,
// api.ErrFutureRev and api.ErrClusterIDMismatch are told apart.
func (c *Client) HashKV(ctx context.Context, url string, clusterID uint64, rev int64) (HashKV, error) {
	body, err := json.Marshal(hashRequest{rev})
	if err != nil {
		return HashKV{}, err
	}
	a, err := c.do(ctx, http.MethodGet, trimURL(url)+"/members/hashkv", "application/json", body, "X-Etcd-Cluster-ID", hexID(clusterID))
	if err != nil {
		return HashKV{}, err
	}
	text := string(a.body)
	switch {
	case a.status == http.StatusOK:
	case strings.Contains(text, "mvcc: required revision has been compacted"):
		return HashKV{}, api.ErrCompacted
	case strings.Contains(text, "mvcc: required revision is a future revision"):
		return HashKV{}, api.ErrFutureRev
	case a.status == http.StatusPreconditionFailed && strings.Contains(text, textClusterMismatch):
		return HashKV{}, api.ErrClusterIDMismatch
	default:
		return HashKV{}, a.failure("hash of " + url)
	}
	var h hashAnswer
	if err := json.Unmarshal(a.body, &h); err != nil {
		return HashKV{}, fmt.Errorf("decode hash of %s: %w", url, err)
	}
	return HashKV{Revision: h.Header.Revision, Hash: h.Hash, CompactRevision: h.CompactRevision, HashRevision: h.HashRevision}, nil
}

// LeaseRenew asks the leader to renew a lease: api.ErrLeaseNotFound, ErrNotPrimary,
// api.ErrTimeout.
func (c *Client) LeaseRenew(ctx context.Context, url string, id int64) (ttl int64, err error) {
	req, err := proto.Marshal(&pb.LeaseKeepAliveRequest{ID: id})
	if err != nil {
		return 0, err
	}
	a, err := c.lease(ctx, trimURL(url)+"/leases", req)
	if err != nil {
		return 0, err
	}
	var resp pb.LeaseKeepAliveResponse
	if err := proto.Unmarshal(a.body, &resp); err != nil {
		return 0, fmt.Errorf("decode answer of %s: %w", url, err)
	}
	if resp.ID != id {
		return 0, fmt.Errorf("%s renewed lease %x instead of %x", url, resp.ID, id)
	}
	return resp.TTL, nil
}

// LeaseTimeToLive asks the leader what is left of a lease; errors as of LeaseRenew.
func (c *Client) LeaseTimeToLive(ctx context.Context, url string, id int64, keys bool) (*pb.LeaseTimeToLiveResponse, error) {
	req, err := proto.Marshal(&pb.LeaseTimeToLiveRequest{ID: id, Keys: keys})
	if err != nil {
		return nil, err
	}
	a, err := c.lease(ctx, trimURL(url)+"/leases/internal", wrapLease(req))
	if err != nil {
		return nil, err
	}
	inner, err := unwrapLease(a.body)
	if err != nil {
		return nil, fmt.Errorf("decode answer of %s: %w", url, err)
	}
	resp := &pb.LeaseTimeToLiveResponse{}
	if err := proto.Unmarshal(inner, resp); err != nil {
		return nil, fmt.Errorf("decode answer of %s: %w", url, err)
	}
	if resp.ID != id {
		return nil, fmt.Errorf("%s answered for lease %x instead of %x", url, resp.ID, id)
	}
	return resp, nil
}

func (c *Client) lease(ctx context.Context, url string, req []byte) (*answer, error) {
	a, err := c.do(ctx, http.MethodPost, url, "application/protobuf", req)
	switch {
	case err != nil:
		return nil, err
	case a.status == http.StatusRequestTimeout:
		return nil, api.ErrTimeout
	case a.status == http.StatusNotFound && strings.Contains(string(a.body), textLeaseNotFound):
		return nil, api.ErrLeaseNotFound
	case strings.Contains(string(a.body), ErrNotPrimary.Error()) && a.status != http.StatusOK:
		return nil, ErrNotPrimary
	case a.status != http.StatusOK:
		return nil, a.failure("post " + url)
	}
	return a, nil
}

// Promote asks the leader to promote a learner and returns the members:
// api.ErrMemberNotFound, ErrMemberNotLearner, ErrLearnerNotReady, ErrTimeout.
func (c *Client) Promote(ctx context.Context, url string, id uint64, token string) ([]Member, error) {
	path := "/members/promote/" + strconv.FormatUint(id, 10)
	a, err := c.do(ctx, http.MethodPost, trimURL(url)+path, "", nil, "Authorization", token)
	if err != nil {
		return nil, err
	}
	text := string(a.body)
	switch a.status {
	case http.StatusOK:
	case http.StatusRequestTimeout:
		return nil, api.ErrTimeout
	case http.StatusNotFound:
		return nil, api.ErrMemberNotFound
	case http.StatusPreconditionFailed:
		// One text begins with the other.
		if strings.Contains(text, "can only promote a learner member which is in sync with leader") {
			return nil, api.ErrLearnerNotReady
		}
		if strings.Contains(text, "can only promote a learner member") {
			return nil, api.ErrMemberNotLearner
		}
		return nil, a.failure("promote")
	default:
		return nil, a.failure("promote")
	}
	var ms []Member
	if err := json.Unmarshal(a.body, &ms); err != nil {
		return nil, fmt.Errorf("decode members of %s: %w", url, err)
	}
	return ms, nil
}

// wrapLease puts a request or answer into field 1 of what /leases/internal exchanges
// (leasepb, which is not part of etcd's api module).
func wrapLease(b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), b)
}

var errLeaseWrap = errors.New("no lease request in the message")

func unwrapLease(b []byte) ([]byte, error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		if num == 1 && typ == protowire.BytesType {
			inner, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return nil, protowire.ParseError(n)
			}
			return inner, nil
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
	}
	return nil, errLeaseWrap
}
