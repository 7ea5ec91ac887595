package server

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"theseus/internal/vfs"
	"theseus/peer"
)

// maxManifests bounds how many manifests of an archive are looked at, the last by name
// first: one of this cluster is enough, and names begin with what they are of.
const maxManifests = 100_000

// archived is what the manifest of a backup says that matters here (package backup).
type archived struct {
	Backup struct {
		ID        string    `json:"id"`
		ClusterID hexID     `json:"clusterID"`
		Taken     time.Time `json:"taken"`
		Revision  int64     `json:"revision"`
	} `json:"backup"`
}

// checkArchive refuses to found a cluster again that has been backed up: ids are made of
// addresses and the token, so a cluster founded anew has those of the one that was lost.
func (g *Gate) checkArchive(self, cluster uint64) error {
	dir, ok := strings.CutPrefix(g.o.BirthArchive, "dir:")
	if !ok || dir == "" {
		return nil
	}
	names, err := g.o.FS.ReadDir(dir)
	if err != nil {
		return &Held{
			Reason: fmt.Sprintf("the backup archive cannot be read, so it is not known whether cluster %s is new: %v", formatID(cluster), err),
			Next:   "mount it, or correct --birth-archive",
		}
	}
	for i, looked := len(names)-1, 0; i >= 0 && looked < maxManifests; i-- {
		if !strings.HasSuffix(names[i].Name(), ".json") {
			continue
		}
		looked++
		var a archived
		b, err := vfs.ReadFile(g.o.FS, filepath.Join(dir, names[i].Name()))
		if err != nil || json.Unmarshal(b, &a) != nil || uint64(a.Backup.ClusterID) != cluster {
			continue // what is no manifest says nothing
		}
		reason := fmt.Sprintf("cluster %s is not new: the archive %s has its backup %s of %s, at revision %d",
			formatID(cluster), dir, a.Backup.ID, a.Backup.Taken.UTC().Format(time.RFC3339), a.Backup.Revision)
		g.tell(peer.Birth{State: peer.BirthLost, MemberID: self, ClusterID: cluster, Reason: reason})
		return &Held{
			Reason: reason,
			Next:   "put the data directories back, or restore that backup on every member; or, for a cluster that begins at nothing, give another --initial-cluster-token",
			Lost:   true,
		}
	}
	return nil
}
