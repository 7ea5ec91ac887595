package ctl

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/printer"
)

// delWait is the time in which a range that was perhaps not meant can be kept.
const delWait = 2 * time.Second

// delFlags are the flags of del, also within a txn.
type delFlags struct {
	prefix, fromKey, prevKV, ranged bool
}

func (a *app) delCmd() *cobra.Command {
	var f delFlags
	return f.command(a.run(func(cmd *cobra.Command, args []string) error { return a.del(cmd, args, &f) }))
}

// command makes the command, to run on its own or to be read from a line of txn.
func (f *delFlags) command(run func(*cobra.Command, []string)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "del [options] <key> [range_end]",
		Short: "Removes the specified key or range of keys [key, range_end)",
		Run:   run,
	}
	fs := cmd.Flags()
	fs.BoolVar(&f.prefix, "prefix", false, "delete keys with matching prefix")
	fs.BoolVar(&f.prevKV, "prev-kv", false, "return deleted key-value pairs")
	fs.BoolVar(&f.fromKey, "from-key", false, "delete keys that are greater than or equal to the given key using byte compare")
	fs.BoolVar(&f.ranged, "range", false, "delete range of keys")
	return cmd
}

func (a *app) del(cmd *cobra.Command, args []string, f *delFlags) error {
	key, opts, err := f.op(a, args)
	if err != nil {
		return err
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Delete(ctx, key, opts...)
		if err != nil {
			return err
		}
		return a.show(printer.Delete(resp))
	})
}

// op turns the arguments and flags into the parts of the request. A range that is
// given by two keys alone, without --range, is announced and waited for.
func (f *delFlags) op(a *app, args []string) (string, []clientv3.OpOption, error) {
	if len(args) == 0 || len(args) > 2 {
		return "", nil, badArgs("del command needs one argument as key and an optional argument as range_end")
	}
	if f.prefix && f.fromKey {
		return "", nil, badArgs("`--prefix` and `--from-key` cannot be set at the same time, choose one")
	}
	key, opts, err := keyRange(args, f.prefix, f.fromKey)
	if err != nil {
		return "", nil, err
	}
	if len(args) > 1 && !f.ranged {
		a.errorf("Warning: Keys between %q and %q will be deleted. Please interrupt the command within next 2 seconds to cancel. "+
			"You can provide `--range` flag to avoid the delay.\n", args[0], args[1])
		time.Sleep(delWait)
	}
	if f.prevKV {
		opts = append(opts, clientv3.WithPrevKV())
	}
	return key, opts, nil
}
