package offline

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"theseus/backend"
	"theseus/snap"
	"theseus/wal"
)

func (t *tool) verifyCommand() *cobra.Command {
	var dataDir, wals string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Checks the files of a stopped member against each other and changes nothing",
		Args:  cobra.NoArgs,
		RunE:  run(func([]string) error { return t.verify(dataDir, wals) }),
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "Required. Data directory of a member that is stopped.")
	cmd.Flags().StringVar(&wals, "wal-dir", "", "Dedicated WAL directory, where the member has one")
	_, _, _ = cmd.MarkFlagRequired("data-dir"), cmd.MarkFlagDirname("data-dir"), cmd.MarkFlagDirname("wal-dir") // fail for unknown flags only
	return cmd
}

// finding is one thing that is not as a server leaves it.
type finding struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"` // in bytes; -1 when it is about the whole file
	What   string `json:"what"`
	Do     string `json:"do"`
	// Harmless findings are repaired by the next start and lose nothing that was
	// acknowledged.
	Harmless bool `json:"harmless,omitempty"`
}

func (f finding) String() string {
	at := ""
	if f.Offset >= 0 {
		at = fmt.Sprintf(" at offset %d", f.Offset)
	}
	kind := "damaged"
	if f.Harmless {
		kind = "note"
	}
	return fmt.Sprintf("%s: %s%s: %s; %s", kind, f.File, at, f.What, f.Do)
}

// What to do about damage, in the order of preference.
const (
	doReplace = "replace this member: remove it from the cluster and add it anew with an empty data directory; " +
		"if it is the only one, restore it from a snapshot"
	doRepair = "nothing: the next start cuts it off; it was never acknowledged"
)

// report is the result in JSON.
type report struct {
	OK       bool      `json:"ok"`
	Findings []finding `json:"findings"`
	Summary  summary   `json:"summary"`
}

// summary says what was there to check.
type summary struct {
	MemberID      string `json:"memberID"`
	ClusterID     string `json:"clusterID"`
	SnapshotIndex uint64 `json:"snapshotIndex"`
	LastIndex     uint64 `json:"lastIndex"`
	CommitIndex   uint64 `json:"commitIndex"`
	AppliedIndex  uint64 `json:"appliedIndex"`
	Revision      int64  `json:"revision"`
	Keys          int    `json:"keys"`
	Storage       string `json:"storageVersion"`
}

// verify reads every file of a member and prints what is wrong. It fails when
// something is that a start would not mend.
func (t *tool) verify(dataDir, wals string) error {
	if t.format != "simple" && t.format != "json" {
		return &exitError{exitBadFeature, fmt.Errorf("%s not supported as output format", t.format)}
	}
	v := &verifier{tool: t, dataDir: dataDir, walDir: walDir(dataDir, wals)}
	if err := v.look(); err != nil {
		return err
	}
	bad := 0
	for _, f := range v.report.Findings {
		if !f.Harmless {
			bad++
		}
	}
	v.report.OK = bad == 0
	if err := v.print(); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%s: %d problems found; nothing was changed", dataDir, bad)
	}
	return nil
}

func (v *verifier) print() error {
	if v.format == "json" {
		return json.NewEncoder(v.stdout).Encode(v.report)
	}
	for _, f := range v.report.Findings {
		if _, err := fmt.Fprintln(v.stdout, f); err != nil {
			return err
		}
	}
	if !v.report.OK {
		return nil
	}
	s := v.report.Summary
	_, err := fmt.Fprintf(v.stdout, "ok: member %s of cluster %s: snapshot %d, applied %d, committed %d, last entry %d; revision %d, %d keys\n",
		s.MemberID, s.ClusterID, s.SnapshotIndex, s.AppliedIndex, s.CommitIndex, s.LastIndex, s.Revision, s.Keys)
	return err
}

// verifier holds what was read so far.
type verifier struct {
	*tool
	dataDir, walDir string
	report          report

	logged   []wal.Snapshot // that a member may start from
	contents *wal.Contents  // from snapshot on; nil when the log cannot be read
	snapshot wal.Snapshot   // that the member starts from
	memberID uint64
}

// found notes what an error says, where it is about damage; other errors are
// returned.
func (v *verifier) found(err error) error {
	var inWAL *wal.DamageError
	var inSnap *snap.DamageError
	var inDB *backend.DamageError
	switch {
	case err == nil:
	case errors.As(err, &inWAL):
		v.add(finding{File: inWAL.File, Offset: inWAL.Offset, What: inWAL.What, Do: inWAL.Do})
	case errors.As(err, &inSnap):
		v.add(finding{File: inSnap.File, Offset: -1, What: inSnap.What, Do: inSnap.Do})
	case errors.As(err, &inDB):
		v.add(finding{File: inDB.File, Offset: inDB.Offset, What: inDB.What, Do: doReplace})
	default:
		return err
	}
	return nil
}

func (v *verifier) add(f finding) {
	for _, have := range v.report.Findings {
		if have == f { // both ways of reading the log met it
			return
		}
	}
	v.report.Findings = append(v.report.Findings, f)
}

// damaged notes damage that no error type describes.
func (v *verifier) damaged(file, format string, args ...any) {
	v.add(finding{File: file, Offset: -1, What: fmt.Sprintf(format, args...), Do: doReplace})
}

// look reads everything. The database comes first: its lock tells whether a server
// is running, and then nothing else can be judged.
func (v *verifier) look() error {
	v.report.Findings = []finding{}
	if _, err := os.Stat(v.dataDir); err != nil {
		return err
	}
	path := dbPath(v.dataDir)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		v.damaged(path, "the database is missing")
		return v.files()
	}
	err := v.readDB(path, func(b *backend.Backend) error {
		if err := v.files(); err != nil {
			return err
		}
		return v.db(path, b)
	})
	if inDB := new(backend.DamageError); errors.As(err, &inDB) {
		return errors.Join(v.found(err), v.files())
	}
	return err
}

// files reads log and snapshot files.
func (v *verifier) files() error {
	if err := v.log(); err != nil {
		return err
	}
	if err := v.snaps(); err != nil {
		return err
	}
	return v.entries()
}
