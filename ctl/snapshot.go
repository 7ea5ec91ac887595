package ctl

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"theseus/printer"
)

const snapshotExamples = `# Save snapshot to a given file
etcdctl snapshot save /backup/etcd-snapshot.db

# Get snapshot from given address and save it to file
etcdctl snapshot save --endpoints=127.0.0.1:3000 /backup/etcd-snapshot.db

# Get snapshot from given address with certificates
etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/etcd/ca.crt --cert=/etc/etcd/etcd.crt --key=/etc/etcd/etcd.key snapshot save /backup/etcd-snapshot.db

# Get snapshot with certain user and password
etcdctl --user=root --password=password123 snapshot save /backup/etcd-snapshot.db

# Get snapshot from given address with timeout
etcdctl --endpoints=https://127.0.0.1:2379 --dial-timeout=20s snapshot save /backup/etcd-snapshot.db

# Save snapshot with desirable time format
etcdctl snapshot save /mnt/backup/etcd/backup_$(date +%Y%m%d_%H%M%S).db`

func (a *app) snapshotCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "snapshot <subcommand>",
		Short:   "Manages etcd node snapshots",
		Example: indent(snapshotExamples),
	}
	cmd.AddCommand(a.snapshotSaveCmd())
	if a.o.Offline != nil {
		cmd.AddCommand(a.offlineCmd("status"), a.offlineCmd("restore"))
	}
	return cmd
}

// offlineCmd stands for a command that etcdctl lost to etcdutl in 3.6.
func (a *app) offlineCmd(name string) *cobra.Command {
	return &cobra.Command{
		Use:                name,
		Hidden:             true,
		DisableFlagParsing: true,
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			args = withoutGlobals(cmd.Root().PersistentFlags(), args)
			if a.exact {
				a.errorf("Deprecated: Use `etcdutl snapshot %s` instead.\n", name)
			} else {
				a.errorf("Note: this works on a file, without a server; its place is `theseus offline snapshot %s`.\n", name)
			}
			if code := a.o.Offline(append([]string{"snapshot", name}, args...)); code != exitOK {
				return passed(code, nil)
			}
			return nil
		}),
	}
}

// withoutGlobals leaves out the flags about a server, wherever they stand. The
// output format is one that both programs know.
func withoutGlobals(globals *pflag.FlagSet, args []string) []string {
	var rest []string
	for i := 0; i < len(args); i++ {
		name, _, hasValue := strings.Cut(strings.TrimPrefix(args[i], "--"), "=")
		f := globals.Lookup(name)
		if !strings.HasPrefix(args[i], "--") || f == nil || name == "write-out" {
			rest = append(rest, args[i])
			continue
		}
		if !hasValue && f.NoOptDefVal == "" {
			i++
		}
	}
	return rest
}

func (a *app) snapshotSaveCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "save <filename>",
		Short:   "Stores an etcd node backend snapshot to a given file",
		Example: indent(snapshotExamples),
		Run:     a.run(a.snapshotSave),
	}
}

func (a *app) snapshotSave(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return badArgs("snapshot save expects one argument <filename>")
	}
	if err := a.begin(cmd); err != nil {
		return err
	}
	cfg, err := a.config()
	if err != nil {
		return err
	}
	ctx := context.Background()
	// A database may be large: only a timeout that was asked for counts.
	if cmd.Flags().Changed("command-timeout") {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.g.commandTimeout)
		defer cancel()
	}
	version, err := a.saveSnapshot(ctx, cfg, args[0])
	if err != nil {
		return fail(exitInterrupted, err)
	}
	a.printf("Snapshot saved at %s\n", args[0])
	if version != "" {
		a.printf("Server version %s\n", version)
	}
	return nil
}

// saveSnapshot writes to path + ".part" and renames, so that path is either as it
// was or complete, checked against its own hash, and durable.
func (a *app) saveSnapshot(ctx context.Context, cfg clientv3.Config, path string) (version string, err error) {
	if len(cfg.Endpoints) != 1 {
		return "", fmt.Errorf("snapshot must be requested to one selected node, not multiple %v", cfg.Endpoints)
	}
	c, err := a.open(cfg, "client")
	if err != nil {
		return "", err
	}
	defer c.Close()
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", fmt.Errorf("could not open %s (%w)", part, err)
	}
	defer os.Remove(part) // fails once it is renamed, as it should
	defer f.Close()
	lg := a.logger("")
	lg.Info("created temporary db file", zap.String("path", part))
	start := time.Now()
	resp, err := c.SnapshotWithVersion(ctx)
	if err != nil {
		return "", err
	}
	defer resp.Snapshot.Close()
	lg.Info("fetching snapshot", zap.String("endpoint", cfg.Endpoints[0]))
	size, err := a.receive(f, resp.Snapshot)
	if err != nil {
		return "", err
	}
	lg.Info("fetched snapshot", zap.String("endpoint", cfg.Endpoints[0]), zap.String("size", printer.Bytes(size)),
		zap.Duration("took", time.Since(start)), zap.String("etcd-version", resp.Version))
	if err := os.Rename(part, path); err != nil {
		return "", fmt.Errorf("could not rename %s to %s (%w)", part, path, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return "", err
	}
	lg.Info("saved", zap.String("path", path))
	return resp.Version, nil
}

// receive copies the stream, which ends in the SHA-256 of what comes before.
func (a *app) receive(f *os.File, stream io.Reader) (int64, error) {
	bar := a.progressOf("saving snapshot", 0, true)
	tail := &trailer{hash: sha256.New()}
	size, err := io.Copy(io.MultiWriter(f, tail, bar), stream)
	bar.stop()
	if err != nil {
		return 0, fmt.Errorf("could not write snapshot: %w", err)
	}
	if size%512 != sha256.Size {
		return 0, fmt.Errorf("sha256 checksum not found [bytes: %d]", size)
	}
	if !tail.ok() {
		return 0, errors.New("the snapshot arrived damaged: its sha256 checksum does not match")
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("could not fsync snapshot: %w", err)
	}
	if err := f.Close(); err != nil {
		return 0, fmt.Errorf("could not close file descriptor: %w", err)
	}
	return size, nil
}

// trailer hashes all but the last 32 bytes written to it, which it keeps.
type trailer struct {
	hash hash.Hash
	last []byte
}

func (t *trailer) Write(b []byte) (int, error) {
	t.last = append(t.last, b...)
	if n := len(t.last) - sha256.Size; n > 0 {
		t.hash.Write(t.last[:n])
		t.last = append(t.last[:0], t.last[n:]...)
	}
	return len(b), nil
}

func (t *trailer) ok() bool { return bytes.Equal(t.hash.Sum(nil), t.last) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("could not fsync snapshot: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("could not fsync snapshot: %w", err)
	}
	return nil
}
