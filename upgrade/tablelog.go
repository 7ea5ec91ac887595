package upgrade

import (
	"context"
	"strings"
	"time"
)

// expected are log lines that look bad and are what a rolling change looks like, with
// what they mean. The text is what etcd 3.1 to 3.7 and Theseus write.
var expected = []struct{ text, means string }{
	{"lost leader", "the leader stopped or handed over; an election follows"},
	{"lost the TCP streaming connection", "the other end stopped; the stream is made again when it is back"},
	{"lost TCP streaming connection with remote peer", "the other end stopped; the stream is made again when it is back"},
	{"failed to reach the peerURL", "a peer is stopped just now, its version cannot be asked"},
	{"failed to reach the peer URL", "a peer is stopped just now, its version cannot be asked"},
	{"prober detected unhealthy status", "a peer is stopped just now, and the probe has noticed"},
	{"peer became inactive", "a peer is stopped just now"},
	{"failed to dial", "a peer is stopped just now"},
	{"dropped internal Raft message", "a peer is stopped just now; raft sends it again"},
	{"leader found higher-versioned member", "members of two versions: so it is until the last one is through"},
	{"has a higher version", "members of two versions: so it is until the last one is through"},
	{"is not up-to-date", "members of two versions: so it is until the last one is through"},
	{"forcing snapshot", "the cluster version is lowered: each member writes a snapshot that the older program reads"},
	{"cluster is downgrading to target version", "the cluster version is being lowered, as asked"},
	{"cluster version differs from storage version", "the storage follows the cluster version within moments"},
	{"failed to update storage version", "the storage follows once a snapshot of the new version is there"},
	{"failed to cancel downgrade", "the cancelling is repeated; harmless"},
	{"leadership transfer", "the leader hands over before it stops"},
	{"closing transport due to", "a client's connection ended with its member; clients go to another one"},
	{"server stopped", "a request met the stopping member; clients with several endpoints go to another one"},
}

// explainer reads the members' logs and explains what looks bad there, once each.
type explainer struct {
	last map[string]string // last line seen of each member
	next time.Time
}

func newExplainer() *explainer { return &explainer{last: map[string]string{}} }

// explainLines are read of a log at a time.
const explainLines = 60

func (e *explainer) look(ctx context.Context, r *run) {
	if time.Now().Before(e.next) {
		return
	}
	e.next = time.Now().Add(sayEvery)
	for _, name := range r.names {
		lctx, cancel := context.WithTimeout(ctx, lookTimeout)
		lines, err := r.o.Hosts[name].Logs(lctx, explainLines)
		cancel()
		if err != nil || len(lines) == 0 {
			continue
		}
		first, seen := e.last[name], e.last[name] == ""
		e.last[name] = lines[len(lines)-1]
		if seen {
			continue // what was written before the run is not ours to explain
		}
		for _, means := range explain(since(lines, first)) {
			r.show.note("%s logs %q: expected, %s", name, means[0], means[1])
		}
	}
}

// since are the lines after the last one that is equal to mark; all when none is.
func since(lines []string, mark string) []string {
	for i := len(lines) - 1; i >= 0; i-- {
		if lines[i] == mark {
			return lines[i+1:]
		}
	}
	return lines
}

// explain returns the expected texts in the lines with what they mean.
func explain(lines []string) (out [][2]string) {
	seen := map[string]bool{}
	for _, l := range lines {
		for _, x := range expected {
			if !seen[x.text] && strings.Contains(l, x.text) {
				seen[x.text] = true
				out = append(out, [2]string{x.text, x.means})
			}
		}
	}
	return out
}
