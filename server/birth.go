package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.uber.org/zap"

	"theseus/internal/vfs"
	"theseus/peer"
)

// recordFormat is the version of the birth record's format (docs/format/datadir.md).
const recordFormat = 1

// recordEvery is how often the birth record is brought up to date.
const recordEvery = 30 * time.Second

// How a member got the data that its birth record is about.
const (
	bornFounded = "founded" // with a new cluster
	bornJoined  = "joined"  // a cluster that lived
	bornOpened  = "opened"  // by opening what an earlier server had left
)

// birthRecord says, outside the data directory, that there has been data in it: without
// it, a member whose directory was wiped could not know that it ever had one while the
// others are down.
type birthRecord struct {
	Format    int       `json:"format"`
	ClusterID hexID     `json:"cluster_id"`
	MemberID  hexID     `json:"member_id"`
	Name      string    `json:"name"`
	How       string    `json:"how"`
	Born      time.Time `json:"born"`
	Seen      time.Time `json:"seen"`
	Version   string    `json:"cluster_version,omitempty"`
	Revision  int64     `json:"revision"`
	// Checksum is the CRC-32C of the record's JSON with an empty checksum.
	Checksum string `json:"crc32c"`
}

// hexID is an id as operators see it.
type hexID uint64

// MarshalText implements encoding.TextMarshaler.
func (id hexID) MarshalText() ([]byte, error) { return []byte(formatID(uint64(id))), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *hexID) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 16, 64)
	*id = hexID(n)
	return err
}

func (r birthRecord) sum() string {
	r.Checksum = ""
	b, err := json.Marshal(r)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%08x", crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// readRecord reads the birth record; nil when there is none.
func readRecord(fs vfs.FS, path string) (*birthRecord, error) {
	if path == "" {
		return nil, nil
	}
	b, err := vfs.ReadFile(fs, path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read birth record: %w: give this user access to it, or another place with --birth-record", err)
	}
	var r birthRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("birth record %s is damaged: %w: find out whether this member ever had data before you remove it", path, err)
	}
	if r.Format != recordFormat || r.Checksum != r.sum() {
		return nil, fmt.Errorf("birth record %s is damaged or of a newer server (format %d): find out whether this member ever had data before you remove it", path, r.Format)
	}
	return &r, nil
}

func writeRecord(fs vfs.FS, path string, r birthRecord) error {
	r.Format = recordFormat
	r.Checksum = r.sum()
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := fs.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return vfs.WriteFileAtomic(fs, path, append(b, '\n'), 0o600)
}

// recordBirth notes, once there is data, that there is. A record that cannot be written
// is no reason not to serve.
func (s *Server) recordBirth(how string) {
	if s.o.BirthRecord == "" {
		return
	}
	now := time.Now().UTC().Truncate(time.Second)
	old, err := readRecord(s.o.FS, s.o.BirthRecord)
	switch {
	case err != nil:
		s.log.Warn("the birth record is written anew", zap.Error(err))
	case old != nil && uint64(old.MemberID) == s.id && uint64(old.ClusterID) == s.clusterID:
		s.birth = *old // a start need not wait for a newer one
	case old != nil && uint64(old.ClusterID) != s.clusterID:
		s.log.Warn("the birth record is of another cluster, as after a restore; it is written anew", zap.String("path", s.o.BirthRecord),
			s.idField("recorded-cluster-id", uint64(old.ClusterID)), s.idField("cluster-id", s.clusterID))
	}
	if s.birth.MemberID == 0 {
		s.birth = birthRecord{ClusterID: hexID(s.clusterID), MemberID: hexID(s.id), How: how, Born: now}
		s.updateRecord()
	}
}

// updateRecord writes down what the member has come to.
func (s *Server) updateRecord() {
	s.birth.Name = s.o.Name
	s.birth.Seen = time.Now().UTC().Truncate(time.Second)
	s.birth.Revision = max(s.birth.Revision, s.Revision())
	if cv, ok := s.members().Version(); ok {
		s.birth.Version = cv.String()
	}
	err := writeRecord(s.o.FS, s.o.BirthRecord, s.birth)
	said := s.unrecorded
	if s.unrecorded = err != nil; err != nil && !said {
		s.log.Warn("the birth record cannot be written: should the data directory be lost, this member cannot tell so by itself; give another place with --birth-record",
			zap.String("path", s.o.BirthRecord), zap.Error(err))
	}
}

// keepRecord brings the record up to date until the member stops, and removes it when
// the member is no longer in its cluster: it stands in nobody's way then.
func (s *Server) keepRecord(ctx context.Context) {
	if s.o.BirthRecord == "" {
		return
	}
	every(ctx, recordEvery, s.updateRecord)
	if errors.Is(s.Err(), ErrRemoved) {
		if err := s.o.FS.Remove(s.o.BirthRecord); err != nil {
			s.log.Warn("the birth record of the removed member cannot be removed", zap.Error(err))
		}
		return
	}
	s.updateRecord()
}

// birthAnswer is what this member tells other members of ours.
func (s *Server) birthAnswer() peer.Birth {
	return peer.Birth{
		State: peer.BirthBorn, Name: s.o.Name, MemberID: s.id, ClusterID: s.clusterID,
		Leader: s.Leader(), Commit: s.node.Commit(), Applied: s.applied.Current(), Revision: s.Revision(),
	}
}
