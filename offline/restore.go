package offline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"theseus/internal/vfs"
)

// restoreFlags are the flags of `snapshot restore`.
type restoreFlags struct {
	dataDir, walDir            string
	name, cluster, token, peer string
	skipHash, markCompacted    bool
	bump                       uint64
	mapBytes                   uint64 // accepted and logged: what is needed is known
}

func (t *tool) restoreCommand() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore <filename> --data-dir {output dir} [options]",
		Short: "Restores an etcd member snapshot to an etcd directory",
		RunE: run(func(args []string) error {
			if len(args) != 1 {
				return badArgs("snapshot restore requires exactly one argument")
			}
			if (f.bump > 0) != f.markCompacted {
				return badArgs("--mark-compacted required if --revision-bump > 0")
			}
			return t.restore(args[0], f)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.dataDir, "data-dir", "", "Path to the output data directory")
	flags.StringVar(&f.walDir, "wal-dir", "", "Path to the WAL directory (use --data-dir if none given)")
	flags.StringVar(&f.cluster, "initial-cluster", "default=http://localhost:2380", "Initial cluster configuration for restore bootstrap")
	flags.StringVar(&f.token, "initial-cluster-token", "etcd-cluster", "Initial cluster token for the etcd cluster during restore bootstrap")
	flags.StringVar(&f.peer, "initial-advertise-peer-urls", "http://localhost:2380", "List of this member's peer URLs to advertise to the rest of the cluster")
	flags.StringVar(&f.name, "name", "default", "Human-readable name for this member")
	flags.BoolVar(&f.skipHash, "skip-hash-check", false, "Ignore snapshot integrity hash value (required if copied from data directory)")
	flags.Uint64Var(&f.mapBytes, "initial-memory-map-size", 10737418240, "Initial memory map size of the database in bytes. It uses the default value if not defined or defined to 0")
	flags.Uint64Var(&f.bump, "bump-revision", 0, "How much to increase the latest revision after restore")
	flags.BoolVar(&f.markCompacted, "mark-compacted", false, "Mark the latest revision after restore as the point of scheduled compaction (required if --bump-revision > 0, disallowed otherwise)")
	_, _ = cmd.MarkFlagDirname("data-dir"), cmd.MarkFlagDirname("wal-dir") // fail for unknown flags only
	return cmd
}

// restore makes the data directory of a new member out of a snapshot. It is made
// under a temporary name; what fails leaves nothing behind.
func (t *tool) restore(path string, f restoreFlags) (err error) {
	p, err := newPlan(f.name, f.cluster, f.token, f.peer)
	if err != nil {
		return err
	}
	if f.dataDir == "" {
		f.dataDir = f.name + ".etcd"
	}
	if left, err := os.ReadDir(f.dataDir); !errors.Is(err, os.ErrNotExist) && (err != nil || len(left) > 0) {
		return fmt.Errorf("data-dir %q not empty or could not be read", f.dataDir)
	}
	wals := walDir(f.dataDir, f.walDir)
	if _, err := os.Lstat(wals); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("wal-dir %q exists", wals)
	}
	log := t.logger()
	fields := []zap.Field{
		zap.String("path", path), zap.String("wal-dir", wals), zap.String("data-dir", f.dataDir),
		zap.String("snap-dir", snapDir(f.dataDir)), zap.Uint64("initial-memory-map-size", f.mapBytes),
	}
	log.Info("restoring snapshot", fields...)
	r := &restoring{tool: t, log: log, from: path, flags: f, plan: p, place: newPlacement(f.dataDir, f.walDir)}
	if err := r.place.prepare(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.place.clean()) }()
	if err := r.build(); err != nil {
		return err
	}
	if err := r.place.publish(); err != nil {
		return err
	}
	log.Info("restored snapshot", fields...)
	return nil
}

// placement is where a restore works and where its result goes. An empty directory
// that is there already may be a mount point: work is done within it, and only what
// belongs in it is renamed.
type placement struct {
	within         string // the existing directory that the member folder goes to, or its parent
	work           string // temporary, on the same file system as the result
	data, wals     string // the result: data directory, and the separate log directory or ""
	dataIsThere    bool
	walWork        string   // temporary, beside wals
	made           []string // folders that did not exist before
	done, walMoved bool
}

// newPlacement decides on the names; wals is empty unless the log has its own place.
func newPlacement(data, wals string) *placement {
	p := &placement{data: filepath.Clean(data), wals: wals}
	p.within = filepath.Dir(p.data)
	suffix := ".restore." + strconv.Itoa(os.Getpid()) + ".tmp"
	if _, err := os.Stat(p.data); err == nil {
		p.dataIsThere, p.within = true, p.data
		p.work = filepath.Join(p.data, "member"+suffix)
	} else {
		p.work = p.data + suffix
	}
	if wals != "" {
		p.wals = filepath.Clean(wals)
		p.walWork = p.wals + suffix
	}
	return p
}

// memberWork is the member folder while it is being made.
func (p *placement) memberWork() string {
	if p.dataIsThere {
		return p.work
	}
	return filepath.Join(p.work, "member")
}

// walsWork is the log directory while it is being made.
func (p *placement) walsWork() string {
	if p.wals != "" {
		return p.walWork
	}
	return filepath.Join(p.memberWork(), "wal")
}

// prepare makes the folders that the work is done in.
func (p *placement) prepare() error {
	for _, dir := range []string{p.memberWork(), filepath.Dir(p.walsWork())} {
		if err := p.makeAll(dir); err != nil {
			return errors.Join(err, p.clean())
		}
	}
	return nil
}

// makeAll is os.MkdirAll that remembers what it has made.
func (p *placement) makeAll(dir string) error {
	if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
		return err
	}
	if err := p.makeAll(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	p.made = append(p.made, dir)
	return nil
}

// publish gives the result its names. The log comes first: a server that finds a log
// without a database stops, one that finds a database without a log would begin a
// new cluster on it.
func (p *placement) publish() error {
	if p.wals != "" {
		if err := rename(p.walWork, p.wals); err != nil {
			return err
		}
		p.walMoved = true
	}
	to := p.data
	if p.dataIsThere {
		to = filepath.Join(p.data, "member")
	}
	if err := rename(p.work, to); err != nil {
		return err
	}
	p.done = true
	return nil
}

// rename moves a directory durably.
func rename(from, to string) error {
	if err := vfs.OS.SyncDir(from); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return vfs.OS.SyncDir(filepath.Dir(to))
}

// clean removes everything unless publish was done.
func (p *placement) clean() error {
	if p.done {
		return nil
	}
	err := os.RemoveAll(p.work)
	if p.walWork != "" {
		err = errors.Join(err, os.RemoveAll(p.walWork))
	}
	if p.walMoved {
		err = errors.Join(err, os.RemoveAll(p.wals))
	}
	for i := len(p.made) - 1; i >= 0; i-- {
		_ = os.Remove(p.made[i]) // gone already, or in use by somebody else meanwhile
	}
	return err
}
