package offline

import (
	"errors"
	"hash/crc32"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"theseus/api"
	"theseus/backend"
	"theseus/mvcc"
	"theseus/printer"
)

func (t *tool) hashKVCommand() *cobra.Command {
	var rev int64
	cmd := &cobra.Command{
		Use:   "hashkv <filename>",
		Short: "Prints the KV history hash of a given file",
		Args:  cobra.ExactArgs(1),
		RunE:  run(func(args []string) error { return t.hashKV(args[0], rev) }),
	}
	cmd.Flags().Int64Var(&rev, "rev", 0, "maximum revision to hash (default: latest revision)")
	return cmd
}

// hashKV prints what Maintenance.HashKV of a member with this file would answer.
// Unlike etcdutl it leaves the file as it is.
func (t *tool) hashKV(path string, rev int64) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	p, err := t.printer()
	if err != nil {
		return err
	}
	var out printer.FileHash
	err = t.readDB(path, func(b *backend.Backend) error {
		s, err := mvcc.Open(b, mvcc.Options{ValueBudgetBytes: -1})
		if err != nil {
			return err
		}
		if rev < 0 { // no record is that old: the hash is that of the bucket's name
			_, compacted := s.Revision()
			name := crc32.Checksum([]byte(bucketKey), crc32.MakeTable(crc32.Castagnoli))
			out = printer.FileHash{Hash: name, HashRevision: rev, CompactRevision: compacted}
			return nil
		}
		h, err := s.HashKV(rev)
		out = printer.FileHash{Hash: h.Hash, HashRevision: h.HashRevision, CompactRevision: h.CompactRevision}
		return err
	})
	if coded := new(api.Error); errors.As(err, &coded) { // no server said it
		return errors.New(strings.TrimPrefix(coded.Text, "etcdserver: "))
	}
	if err != nil {
		return err
	}
	return show(p, printer.FileHashKV(out))
}
