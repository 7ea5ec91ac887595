package offline

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"theseus/backend"
	"theseus/version"
)

func (t *tool) migrateCommand() *cobra.Command {
	var dataDir, target string
	var force bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Migrates schema of etcd data dir files to make them compatible with different etcd version",
		RunE: run(func([]string) error {
			to, err := parseTarget(target)
			if err != nil {
				return err
			}
			return t.migrate(dataDir, to, force)
		}),
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "Path to the etcd data dir")
	cmd.Flags().StringVar(&target, "target-version", "", `Target etcd version to migrate contents of data dir. Minimal value 3.5. Format "X.Y" for example 3.6.`)
	cmd.Flags().BoolVar(&force, "force", false, "Ignore migration failure and forcefully override storage version. Not recommended.")
	_, _ = cmd.MarkFlagRequired("data-dir"), cmd.MarkFlagRequired("target-version") // fail for unknown flags only
	_ = cmd.MarkFlagDirname("data-dir")
	return cmd
}

var targetForm = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)

func parseTarget(s string) (version.Version, error) {
	v, err := version.Parse(s)
	if err != nil || !targetForm.MatchString(s) {
		return v, badArgs(`wrong target version format, expected "X.Y", got %q`, s)
	}
	if v.Less(version.V3_5) {
		return v, badArgs(`target version %q not supported. Minimal "3.5"`, s)
	}
	return v, nil
}

// migrate brings the database of a stopped member to the format of another minor.
func (t *tool) migrate(dataDir string, to version.Version, force bool) (err error) {
	log := t.logger()
	b, err := t.openDB(dbPath(dataDir), false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	term, err := number(b, keyTerm)
	if err != nil {
		return err
	}
	from, err := version.DetectStorage(string(b.Get(bucketMeta, keyStorageVersion)), term)
	if errors.Is(err, version.ErrStorageUnknown) {
		log.Error("failed to detect storage version. Please make sure you are using data dir from etcd v3.5 and older")
		return errors.New("missing term information")
	}
	if err != nil {
		return err
	}
	if from.SameMinor(to) {
		log.Info("storage version up-to-date", zap.String("storage-version", to.MinorString()))
		return nil
	}
	err = step(log, b, dataDir, from, to)
	if err == nil || !force {
		return err
	}
	log.Info("normal migrate failed, trying with force", zap.Error(err))
	text := to.String()
	if to.SameMinor(version.V3_5) {
		text = ""
	}
	if err := setStorageVersion(b, text); err != nil {
		return err
	}
	log.Warn("forcefully set storage version", zap.String("storage-version", to.MinorString()))
	return nil
}

// step goes minor by minor; each step is durable before the next.
func step(log *zap.Logger, b *backend.Backend, dataDir string, from, to version.Version) error {
	if from.Major != to.Major {
		log.Error("Changing major storage version is not supported",
			zap.Stringer("storage-version", from), zap.Stringer("target-storage-version", to))
		return errors.New("cannot create migration plan: changing major storage version is not supported")
	}
	for _, v := range []version.Version{from, to} {
		if err := version.CheckStorage(v, version.Current); err != nil {
			return fmt.Errorf("cannot create migration plan: %w", err)
		}
	}
	need := version.Min
	if to.Less(from) {
		var err error
		if need, err = logVersion(dataDir); err != nil {
			return err
		}
	}
	steps, err := version.StorageSteps(from, to, need)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if err := setStorageVersion(b, s.StorageVersion); err != nil {
			return err
		}
		log.Info("updated storage version", zap.Stringer("new-storage-version", s.To))
	}
	return nil
}

// setStorageVersion writes meta/storageVersion, or deletes it for the empty text.
func setStorageVersion(b *backend.Backend, text string) error {
	b.Begin()
	if text == "" {
		b.Delete(bucketMeta, keyStorageVersion)
	} else {
		b.Put(bucketMeta, keyStorageVersion, []byte(text))
	}
	b.End()
	return b.Flush()
}
