package ctl

import (
	"context"
	"io"
	"strconv"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/printer"
)

// putFlags are the flags of put, also within a txn.
type putFlags struct {
	lease                            string
	prevKV, ignoreValue, ignoreLease bool
}

func (a *app) putCmd() *cobra.Command {
	var f putFlags
	return f.command(a.run(func(cmd *cobra.Command, args []string) error { return a.put(cmd, args, &f) }))
}

// command makes the command, to run on its own or to be read from a line of txn.
func (f *putFlags) command(run func(*cobra.Command, []string)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "put [options] <key> <value> (<value> can also be given from stdin)",
		Short: "Puts the given key into the store",
		Long: `
Puts the given key into the store.

When <value> begins with '-', <value> is interpreted as a flag.
Insert '--' for workaround:

$ put <key> -- <value>
$ put -- <key> <value>

If <value> isn't given as a command line argument and '--ignore-value' is not specified,
this command tries to read the value from standard input.

If <lease> isn't given as a command line argument and '--ignore-lease' is not specified,
this command tries to read the value from standard input.

For example,
$ cat file | put <key>
will store the content of the file to <key>.
`,
		Run: run,
	}
	fs := cmd.Flags()
	fs.StringVar(&f.lease, "lease", "0", "lease ID (in hexadecimal) to attach to the key")
	fs.BoolVar(&f.prevKV, "prev-kv", false, "return the previous key-value pair before modification")
	fs.BoolVar(&f.ignoreValue, "ignore-value", false, "updates the key using its current value")
	fs.BoolVar(&f.ignoreLease, "ignore-lease", false, "updates the key using its current lease")
	return cmd
}

func (a *app) put(cmd *cobra.Command, args []string, f *putFlags) error {
	key, value, opts, err := f.op(args, a.in)
	if err != nil {
		return err
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Put(ctx, key, value, opts...)
		if err != nil {
			return err
		}
		return a.show(printer.Put(resp))
	})
}

// op turns the arguments and flags into the parts of the request. The value comes
// from stdin, to its end, when there is no argument for it.
func (f *putFlags) op(args []string, stdin io.Reader) (key, value string, opts []clientv3.OpOption, err error) {
	if len(args) == 0 {
		return "", "", nil, errPutArgs
	}
	if f.ignoreValue && len(args) > 1 {
		return "", "", nil, badArgs("put command needs only 1 argument when 'ignore-value' is set")
	}
	if !f.ignoreValue {
		if value, err = argOrStdin(args, stdin); err != nil {
			return "", "", nil, err
		}
	}
	id, err := strconv.ParseInt(f.lease, 16, 64)
	if err != nil {
		return "", "", nil, badArgs("bad lease ID (%w), expecting ID in Hex", err)
	}
	if id != 0 {
		opts = append(opts, clientv3.WithLease(clientv3.LeaseID(id)))
	}
	if f.prevKV {
		opts = append(opts, clientv3.WithPrevKV())
	}
	if f.ignoreValue {
		opts = append(opts, clientv3.WithIgnoreValue())
	}
	if f.ignoreLease {
		opts = append(opts, clientv3.WithIgnoreLease())
	}
	return args[0], value, opts, nil
}

var errPutArgs = badArgs("put command needs 1 argument and input from stdin or 2 arguments")

func argOrStdin(args []string, stdin io.Reader) (string, error) {
	if len(args) > 1 {
		return args[1], nil
	}
	b, err := io.ReadAll(stdin)
	if err != nil || len(b) == 0 {
		return "", errPutArgs
	}
	return string(b), nil
}
