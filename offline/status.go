package offline

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"theseus/backend"
	"theseus/printer"
)

func (t *tool) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status <filename>",
		Short: "Gets backend snapshot status of a given file",
		RunE: run(func(args []string) error {
			if len(args) != 1 {
				return badArgs("snapshot status requires exactly one argument")
			}
			return t.status(args[0])
		}),
	}
}

// status checks a snapshot file and says what it holds. Unlike etcdutl it compares
// the checksum, where the file has one: whoever asks wants to know whether the
// backup is good. A file copied from a data directory has none.
func (t *tool) status(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	p, err := t.printer()
	if err != nil {
		return err
	}
	s := printer.Snapshot{TotalSize: info.Size()}
	if hashed(info.Size()) {
		if err := checkHash(path, io.Discard); err != nil {
			return fmt.Errorf("snapshot file integrity check failed: %s: %w; take another snapshot", path, err)
		}
	}
	err = t.readDB(path, func(b *backend.Backend) error {
		found, err := count(b)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		s.Revision, s.TotalKey, s.TotalSize = found.revision, found.keys, b.Size()
		s.Version = string(b.Get(bucketMeta, keyStorageVersion))
		s.Hash, err = b.Hash(func(backend.Bucket, []byte) bool { return false })
		return err
	})
	if damaged := new(backend.DamageError); errors.As(err, &damaged) {
		return fmt.Errorf("snapshot file integrity check failed: %s is damaged at offset %d: %s; take another snapshot",
			damaged.File, damaged.Offset, damaged.What)
	}
	if err != nil {
		return err
	}
	return show(p, printer.SnapshotStatus(s))
}
