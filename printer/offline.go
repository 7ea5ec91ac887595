package printer

import (
	"fmt"
	"strings"
)

// Snapshot is what a snapshot file holds.
type Snapshot struct {
	Hash      uint32 `json:"hash"`      // CRC-32C over all buckets
	Revision  int64  `json:"revision"`  // the newest
	TotalKey  int    `json:"totalKey"`  // keys that are there, not their revisions
	TotalSize int64  `json:"totalSize"` // bytes
	Version   string `json:"version"`   // storage version; empty before 3.6
}

// SnapshotStatus is what `snapshot status` says.
func SnapshotStatus(s Snapshot) Result {
	row := []string{
		fmt.Sprintf("%x", s.Hash), fmt.Sprint(s.Revision), fmt.Sprint(s.TotalKey), Bytes(s.TotalSize), s.Version,
	}
	return Result{
		simple: func(t *text) { t.line(strings.Join(row, ", ")) },
		fields: func(t *text) {
			t.field("Hash", s.Hash)
			t.field("Revision", s.Revision)
			t.field("Keys", s.TotalKey)
			t.field("Size", s.TotalSize)
			t.field("Version", s.Version)
		},
		table: func() *table {
			return &table{headers: []string{"HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"}, rows: [][]string{row}}
		},
		json: s,
	}
}

// FileHash is the HashKV of a file.
type FileHash struct {
	Hash            uint32 `json:"hash"`
	HashRevision    int64  `json:"hashRevision"`
	CompactRevision int64  `json:"compactRevision"`
}

// FileHashKV is what `hashkv` says.
func FileHashKV(h FileHash) Result {
	row := []string{fmt.Sprint(h.Hash), fmt.Sprint(h.HashRevision), fmt.Sprint(h.CompactRevision)}
	return Result{
		simple: func(t *text) { t.line(strings.Join(row, ", ")) },
		fields: func(t *text) {
			t.field("Hash", h.Hash)
			t.field("Hash revision", h.HashRevision)
			t.field("Compact revision", h.CompactRevision)
		},
		table: func() *table {
			return &table{headers: []string{"HASH", "HASH REVISION", "COMPACT REVISION"}, rows: [][]string{row}}
		},
		json: h,
	}
}
