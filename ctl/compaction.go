package ctl

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func (a *app) compactionCmd() *cobra.Command {
	physical := false
	cmd := &cobra.Command{
		Use:   "compaction [options] <revision>",
		Short: "Compacts the event history in etcd",
		Run:   a.run(func(cmd *cobra.Command, args []string) error { return a.compaction(cmd, args, physical) }),
	}
	cmd.Flags().BoolVar(&physical, "physical", false, "'true' to wait for compaction to physically remove all old revisions")
	return cmd
}

func (a *app) compaction(cmd *cobra.Command, args []string, physical bool) error {
	if len(args) != 1 {
		return badArgs("compaction command needs 1 argument")
	}
	rev, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return fail(exitError, err)
	}
	var opts []clientv3.CompactOption
	if physical {
		opts = append(opts, clientv3.WithCompactPhysical())
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		if _, err := c.Compact(ctx, rev, opts...); err != nil {
			return err
		}
		a.printf("compacted revision %d\n", rev)
		return nil
	})
}
