package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// PathDatabase is where a member of ours gives its database, on its peer addresses, to
// one that repairs itself. Real etcd does not know it and answers 404.
const PathDatabase = "/theseus/database"

// ErrNoDatabase is the answer of a member that runs etcd.
var ErrNoDatabase = errors.New("the member runs etcd, which gives no database on its peer port")

// headerIndex is the applied index of the database that is sent.
const headerIndex = "X-Theseus-Index"

// Database is an image of a member's database as of a raft index.
type Database struct {
	Index uint64
	Size  int64
	Body  io.ReadCloser
}

// DatabaseGiver is PathDatabase. from is the least index that is of use.
type DatabaseGiver interface {
	PeerDatabase(ctx context.Context, from uint64) (*Database, error)
}

// ServeDatabase answers PathDatabase.
func ServeDatabase(w http.ResponseWriter, r *http.Request, clusterID uint64, g DatabaseGiver) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		refuse(w, http.StatusMethodNotAllowed, "Method Not Allowed")
		return
	}
	w.Header().Set("X-Etcd-Cluster-ID", hexID(clusterID))
	if r.Header.Get("X-Etcd-Cluster-ID") != hexID(clusterID) {
		refuse(w, http.StatusPreconditionFailed, textClusterMismatch)
		return
	}
	from, err := strconv.ParseUint(r.URL.Query().Get("from"), 10, 64)
	if err != nil {
		refuse(w, http.StatusBadRequest, "from is no index")
		return
	}
	// Its own end would come after five seconds: see service.context.
	db, err := g.PeerDatabase(context.WithoutCancel(r.Context()), from)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	defer func() { _ = db.Body.Close() }()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(db.Size, 10))
	w.Header().Set(headerIndex, strconv.FormatUint(db.Index, 10))
	_, _ = io.Copy(w, db.Body) // who receives less than was promised says so
}

// FetchDatabase asks a member for its database as of index from or later. The caller
// closes its body; it ends with ctx.
func (c *Client) FetchDatabase(ctx context.Context, url string, clusterID, from uint64) (*Database, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, trimURL(url)+PathDatabase+"?from="+strconv.FormatUint(from, 10), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Etcd-Cluster-ID", hexID(clusterID))
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	db := &Database{Size: resp.ContentLength, Body: resp.Body}
	if resp.StatusCode != http.StatusOK {
		defer func() { _ = resp.Body.Close() }()
		b, _ := readBody(resp.Body, maxRequestBody)
		a := answer{status: resp.StatusCode, body: b}
		if resp.StatusCode == http.StatusNotFound {
			return nil, ErrNoDatabase
		}
		return nil, a.failure("get " + trimURL(url) + PathDatabase)
	}
	if db.Index, err = strconv.ParseUint(resp.Header.Get(headerIndex), 10, 64); err != nil || db.Size < 0 {
		return nil, fmt.Errorf("answer of %s%s has no index or no length", trimURL(url), PathDatabase)
	}
	return db, nil
}
