package offline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"theseus/backend"
	"theseus/printer"
)

func (t *tool) defragCommand() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "defrag",
		Short: "Defragments the storage of the etcd",
		RunE: run(func([]string) error {
			if err := t.defrag(dbPath(dataDir)); err != nil {
				return fmt.Errorf("Failed to defragment etcd data[%s] (%w)", dataDir, err) //nolint:staticcheck // etcd's text
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "Required. Defragments a data directory not in use by etcd.")
	_, _ = cmd.MarkFlagRequired("data-dir"), cmd.MarkFlagDirname("data-dir") // fail for unknown flags only
	return cmd
}

// defrag rewrites the database without its free pages.
func (t *tool) defrag(path string) (err error) {
	log := t.logger()
	b, err := t.openDB(path, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	began, before, usedBefore := time.Now(), fileSize(path, b), b.SizeInUse()
	log.Info("defragmenting", zap.String("path", path),
		zap.Int64("current-db-size-bytes", before), zap.String("current-db-size", printer.Bytes(before)),
		zap.Int64("current-db-size-in-use-bytes", usedBefore),
		zap.String("current-db-size-in-use", printer.Bytes(usedBefore)))
	if err := b.Defrag(context.Background(), nil); err != nil {
		return err
	}
	after, used := fileSize(path, b), b.SizeInUse()
	log.Info("finished defragmenting directory", zap.String("path", path),
		zap.Int64("current-db-size-bytes-diff", after-before),
		zap.Int64("current-db-size-bytes", after), zap.String("current-db-size", printer.Bytes(after)),
		zap.Int64("current-db-size-in-use-bytes-diff", used-usedBefore),
		zap.Int64("current-db-size-in-use-bytes", used), zap.String("current-db-size-in-use", printer.Bytes(used)),
		zap.Duration("took", time.Since(began)))
	return nil
}

// fileSize is what the file takes on disk by its name: free space that was
// reserved at its end included.
func fileSize(path string, b *backend.Backend) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return b.Size()
	}
	return info.Size()
}
