package ctl

import (
	"strings"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/printer"
)

// getFlags are the flags of get, also within a txn.
type getFlags struct {
	consistency, order, sortBy           string
	limit, rev                           int64
	prefix, fromKey                      bool
	keysOnly, countOnly, valueOnly       bool
	stream                               bool
	minCreate, maxCreate, minMod, maxMod int64
}

func (a *app) getCmd() *cobra.Command {
	var f getFlags
	return f.command(a.run(func(cmd *cobra.Command, args []string) error { return a.get(cmd, args, &f) }))
}

// command makes the command, to run on its own or to be read from a line of txn.
func (f *getFlags) command(run func(*cobra.Command, []string)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get [options] <key> [range_end]",
		Short: "Gets the key or a range of keys",
		Run:   run,
	}
	fs := cmd.Flags()
	fs.StringVar(&f.consistency, "consistency", "l", "Linearizable(l) or Serializable(s)")
	fs.StringVar(&f.order, "order", "", "Order of results; ASCEND or DESCEND (ASCEND by default)")
	fs.StringVar(&f.sortBy, "sort-by", "", "Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION")
	fs.Int64Var(&f.limit, "limit", 0, "Maximum number of results")
	fs.BoolVar(&f.prefix, "prefix", false, "Get keys with matching prefix")
	fs.BoolVar(&f.fromKey, "from-key", false, "Get keys that are greater than or equal to the given key using byte compare")
	fs.Int64Var(&f.rev, "rev", 0, "Specify the kv revision")
	fs.BoolVar(&f.keysOnly, "keys-only", false, "Get only the keys")
	fs.BoolVar(&f.countOnly, "count-only", false, "Get only the count")
	fs.BoolVar(&f.valueOnly, "print-value-only", false, `Only write values when using the "simple" output format`)
	fs.Int64Var(&f.minCreate, "min-create-rev", 0, "Minimum create revision")
	fs.Int64Var(&f.maxCreate, "max-create-rev", 0, "Maximum create revision")
	fs.Int64Var(&f.minMod, "min-mod-rev", 0, "Minimum modification revision")
	fs.Int64Var(&f.maxMod, "max-mod-rev", 0, "Maximum modification revision")
	fs.BoolVar(&f.stream, "stream", false, "Use the RangeStream RPC")
	complete(cmd, "consistency", "l", "s")
	complete(cmd, "order", "ASCEND", "DESCEND")
	complete(cmd, "sort-by", "CREATE", "KEY", "MODIFY", "VALUE", "VERSION")
	return cmd
}

func (a *app) get(cmd *cobra.Command, args []string, f *getFlags) error {
	key, opts, err := f.op(args)
	if err != nil {
		return err
	}
	if err := a.beginValueOnly(cmd, f.valueOnly); err != nil {
		return err
	}
	if f.countOnly && a.g.format != "fields" {
		return badArgs("--count-only is only for `--write-out=fields`")
	}
	if f.valueOnly && !a.print.Simple() {
		return badArgs("print-value-only is only for `--write-out=simple`")
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := a.timeout()
	defer cancel()
	var resp *clientv3.GetResponse
	if f.stream {
		var stream clientv3.GetStreamChan
		if stream, err = c.GetStream(ctx, key, opts...); err == nil {
			resp, err = clientv3.GetStreamToGetResponse(stream)
		}
	} else {
		resp, err = c.Get(ctx, key, opts...)
	}
	if err != nil {
		return err
	}
	return a.show(printer.Get(resp))
}

// op turns the arguments and flags into a key and the options of the request.
func (f *getFlags) op(args []string) (string, []clientv3.OpOption, error) {
	if len(args) == 0 {
		return "", nil, badArgs("get command needs one argument as key and an optional argument as range_end")
	}
	if f.prefix && f.fromKey {
		return "", nil, badArgs("`--prefix` and `--from-key` cannot be set at the same time, choose one")
	}
	if f.keysOnly && f.countOnly {
		return "", nil, badArgs("`--keys-only` and `--count-only` cannot be set at the same time, choose one")
	}
	opts, err := f.read()
	if err != nil {
		return "", nil, err
	}
	key, interval, err := keyRange(args, f.prefix, f.fromKey)
	return key, append(opts, interval...), err
}

// read collects what does not concern the keys.
func (f *getFlags) read() ([]clientv3.OpOption, error) {
	var opts []clientv3.OpOption
	local, err := serializable(f.consistency, f.consistency)
	if err != nil {
		return nil, err
	}
	if local {
		opts = append(opts, clientv3.WithSerializable())
	}
	order, err := sortOrder(f.order)
	if err != nil {
		return nil, err
	}
	target, err := sortTarget(f.sortBy)
	if err != nil {
		return nil, err
	}
	opts = append(opts, clientv3.WithLimit(f.limit), clientv3.WithSort(target, order))
	if f.rev > 0 {
		opts = append(opts, clientv3.WithRev(f.rev))
	}
	if f.keysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	if f.countOnly {
		opts = append(opts, clientv3.WithCountOnly())
	}
	return append(opts,
		clientv3.WithMinCreateRev(f.minCreate), clientv3.WithMaxCreateRev(f.maxCreate),
		clientv3.WithMinModRev(f.minMod), clientv3.WithMaxModRev(f.maxMod)), nil
}

// serializable reads a flag --consistency; shown is what the error quotes.
func serializable(value, shown string) (bool, error) {
	switch value {
	case "l":
		return false, nil
	case "s":
		return true, nil
	}
	return false, badOption("unknown consistency flag %q", shown)
}

func sortOrder(s string) (clientv3.SortOrder, error) {
	switch strings.ToUpper(s) {
	case "":
		return clientv3.SortNone, nil
	case "ASCEND":
		return clientv3.SortAscend, nil
	case "DESCEND":
		return clientv3.SortDescend, nil
	}
	return 0, badOption("bad sort order %v", s)
}

func sortTarget(s string) (clientv3.SortTarget, error) {
	switch strings.ToUpper(s) {
	case "", "KEY":
		return clientv3.SortByKey, nil
	case "CREATE":
		return clientv3.SortByCreateRevision, nil
	case "MODIFY":
		return clientv3.SortByModRevision, nil
	case "VALUE":
		return clientv3.SortByValue, nil
	case "VERSION":
		return clientv3.SortByVersion, nil
	}
	return 0, badOption("bad sort target %v", s)
}

// keyRange reads <key> [range_end] with the flags --prefix and --from-key. An
// empty key begins at the first key there can be.
func keyRange(args []string, prefix, fromKey bool) (string, []clientv3.OpOption, error) {
	key := args[0]
	if len(args) > 1 {
		if prefix || fromKey {
			return "", nil, badArgs("too many arguments, only accept one argument when `--prefix` or `--from-key` is set")
		}
		return key, []clientv3.OpOption{clientv3.WithRange(args[1])}, nil
	}
	switch {
	case (prefix || fromKey) && key == "":
		return "\x00", []clientv3.OpOption{clientv3.WithFromKey()}, nil
	case prefix:
		return key, []clientv3.OpOption{clientv3.WithPrefix()}, nil
	case fromKey:
		return key, []clientv3.OpOption{clientv3.WithFromKey()}, nil
	}
	return key, nil, nil
}
