package peer

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// PathBirth is where a member of ours tells, on its peer addresses, whether it has data.
// Real etcd does not know it and answers 404.
const PathBirth = "/theseus/birth"

// States of a Birth.
const (
	BirthVirgin = "virgin" // there has never been data; it waits to be founded
	BirthLost   = "lost"   // there has been data, and it is gone
	BirthBorn   = "born"   // it runs on its data
)

// Birth is what a member of ours tells of itself.
type Birth struct {
	State     string `json:"state"`
	Name      string `json:"name"`
	MemberID  uint64 `json:"member_id"`
	ClusterID uint64 `json:"cluster_id"`
	// Leader and what follows are of a member that runs; Leader 0 is none.
	Leader   uint64 `json:"leader,omitempty"`
	Commit   uint64 `json:"commit,omitempty"`
	Applied  uint64 `json:"applied,omitempty"`
	Revision int64  `json:"revision,omitempty"`
	// Reason says why a member does not run.
	Reason string `json:"reason,omitempty"`
}

// ServeBirth answers PathBirth.
func ServeBirth(w http.ResponseWriter, r *http.Request, b Birth) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		refuse(w, http.StatusMethodNotAllowed, "Method Not Allowed")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(b) // a failed write is the asker's loss
}

// ServeClock answers /raft/probing, by which others measure how far clocks are apart.
func ServeClock(w http.ResponseWriter, r *http.Request) { serveProbe(w, r) }

// GetBirth asks a member for its birth; known is false when it is none of ours.
func (c *Client) GetBirth(ctx context.Context, url string) (b Birth, known bool, err error) {
	a, err := c.do(ctx, http.MethodGet, trimURL(url)+PathBirth, "", nil)
	switch {
	case err != nil:
		return b, false, err
	case a.status == http.StatusNotFound:
		return b, false, nil
	case a.status != http.StatusOK:
		return b, false, a.failure("get " + trimURL(url) + PathBirth)
	}
	if err := json.Unmarshal(a.body, &b); err != nil {
		return b, false, fmt.Errorf("decode %s%s: %w", trimURL(url), PathBirth, err)
	}
	return b, true, nil
}

// ClockOffset is how far a member's clock is ahead of ours, to within the time that the
// answer took.
func (c *Client) ClockOffset(ctx context.Context, url string) (time.Duration, error) {
	var h health
	before := time.Now()
	if _, err := c.getJSON(ctx, url, "/raft/probing", &h); err != nil {
		return 0, err
	}
	after := time.Now()
	return h.Now.Sub(before.Add(after.Sub(before) / 2)), nil
}
