package wal

import (
	"errors"
	"fmt"
)

// Causes of a DamageError, for errors.Is.
var (
	ErrNoSegments       = errors.New("no write-ahead log")
	ErrMissingSegment   = errors.New("missing segment")
	ErrChecksum         = errors.New("checksum mismatch")
	ErrLength           = errors.New("impossible length field")
	ErrMalformed        = errors.New("malformed record")
	ErrUnknownRecord    = errors.New("unknown record type")
	ErrHole             = errors.New("hole in synced records")
	ErrIncomplete       = errors.New("incomplete record")
	ErrEntryGap         = errors.New("gap between entries")
	ErrMetadataConflict = errors.New("conflicting metadata")
	ErrSnapshotMismatch = errors.New("snapshot mismatch")
	ErrSnapshotNotFound = errors.New("snapshot not in the log")
	ErrCommitBeyondLog  = errors.New("commit index beyond the log")
)

// ErrClosed is returned by calls after Close.
var ErrClosed = errors.New("write-ahead log is closed")

// ErrNoConfState is returned by SaveSnapshot for a snapshot of index > 0
// without a configuration: etcd 3.5 and later demand it.
var ErrNoConfState = errors.New("snapshot record needs a conf state")

// DamageError says that the log cannot be what a server left behind, not even
// one that lost power. Nothing on disk has been changed.
type DamageError struct {
	File   string // path of the segment, or of the directory
	Offset int64  // of the record in the file, in bytes; -1 when it has none
	What   string // is wrong
	Do     string // about it
	Cause  error  // one of the causes above
}

func (e *DamageError) Error() string {
	at := ""
	if e.Offset >= 0 {
		at = fmt.Sprintf(" at byte %d", e.Offset)
	}
	return fmt.Sprintf("write-ahead log %s%s: %s; %s", e.File, at, e.What, e.Do)
}

// Unwrap returns the cause.
func (e *DamageError) Unwrap() error { return e.Cause }

// rebuild is what to do about damage that only other copies can heal.
const rebuild = "nothing was changed: keep a copy of the data directory, then remove this member from the cluster " +
	"and add it again with an empty one, or restore a backup if it is the only member"

func damage(file string, off int64, cause error, format string, args ...any) *DamageError {
	return &DamageError{File: file, Offset: off, What: fmt.Sprintf(format, args...), Do: rebuild, Cause: cause}
}
