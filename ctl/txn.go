package ctl

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/printer"
)

func (a *app) txnCmd() *cobra.Command {
	interactive := false
	cmd := &cobra.Command{
		Use:   "txn [options]",
		Short: "Txn processes all the requests in one transaction",
		Long: `Txn reads multiple etcd requests from standard input and applies them as a single atomic transaction.

A transaction consists of three components:
1) a list of conditions,
2) a list of requests to apply if all the conditions are true,
3) a list of requests to apply if any condition is false.

Example interactive stdin usage:

---
etcdctl txn -i
# compares:
mod("key1") > "0"

# success requests (get, put, delete):
put key1 "overwrote-key1"

# failure requests (get, put, delete):
put key1 "created-key1"
put key2 "some extra key"
---

Refer to https://github.com/etcd-io/etcd/blob/main/etcdctl/README.md#txn-options.`,
		Run: a.run(func(cmd *cobra.Command, args []string) error { return a.txn(cmd, args, interactive) }),
	}
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "Input transaction in interactive mode")
	return cmd
}

func (a *app) txn(cmd *cobra.Command, args []string, interactive bool) error {
	if len(args) != 0 {
		return badArgs("txn command does not accept argument")
	}
	c, err := a.dial(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	prompt := func(text string) {
		if interactive {
			a.printf("%s\n", text)
		}
	}
	prompt("compares:")
	compares, err := a.readCompares()
	if err != nil {
		return err
	}
	prompt("success requests (get, put, del):")
	success, err := a.readOps()
	if err != nil {
		return err
	}
	prompt("failure requests (get, put, del):")
	failure, err := a.readOps()
	if err != nil {
		return err
	}
	ctx, cancel := a.timeout()
	defer cancel()
	resp, err := c.Txn(ctx).If(compares...).Then(success...).Else(failure...).Commit()
	if err != nil {
		return err
	}
	return a.show(printer.Txn(resp))
}

// block reads lines up to an empty one. The end of stdin before it is an error.
func (a *app) block(line func(string) error) error {
	for {
		s, err := a.in.ReadString('\n')
		if err != nil {
			return fail(exitInput, err)
		}
		if s = strings.TrimSpace(s); s == "" {
			return nil
		}
		if err := line(s); err != nil {
			return err
		}
	}
}

func (a *app) readCompares() (all []clientv3.Cmp, err error) {
	err = a.block(func(line string) error {
		cmp, err := parseCompare(line)
		all = append(all, cmp)
		return fail(exitInput, err)
	})
	return all, err
}

func (a *app) readOps() (all []clientv3.Op, err error) {
	err = a.block(func(line string) error {
		op, err := a.parseOp(line)
		all = append(all, op)
		return err
	})
	return all, err
}

// parseCompare reads a line such as mod("key") > "0".
func parseCompare(line string) (clientv3.Cmp, error) {
	target, rest, ok := strings.Cut(line, "(")
	if !ok {
		return clientv3.Cmp{}, fmt.Errorf("malformed comparison: %s", line)
	}
	if !compareTargets[target] {
		return clientv3.Cmp{}, fmt.Errorf("malformed comparison: %s (unknown target %s)", line, target)
	}
	var key, op, val string
	if _, err := fmt.Sscanf(rest, "%q) %s %q", &key, &op, &val); err != nil {
		return clientv3.Cmp{}, fmt.Errorf("malformed comparison: %s; got %s(%q) %s %q", line, target, key, op, val)
	}
	if !compareOps[op] {
		return clientv3.Cmp{}, fmt.Errorf("malformed comparison: %s (unknown operator %s, one of = != < > is needed)", line, op)
	}
	cmp, err := compare(target, key, op, val)
	if err != nil {
		return clientv3.Cmp{}, fmt.Errorf("invalid txn compare request: %s", line)
	}
	return cmp, nil
}

var compareTargets = map[string]bool{
	"ver": true, "version": true, "c": true, "create": true, "m": true, "mod": true,
	"val": true, "value": true, "lease": true,
}

var compareOps = map[string]bool{"=": true, "!=": true, "<": true, ">": true}

func compare(target, key, op, val string) (clientv3.Cmp, error) {
	switch target {
	case "val", "value":
		return clientv3.Compare(clientv3.Value(key), op, val), nil
	case "lease":
		id, err := strconv.ParseInt(val, 16, 64)
		return clientv3.Compare(clientv3.LeaseValue(key), op, id), err
	}
	n, err := strconv.ParseInt(val, 10, 64)
	switch target {
	case "ver", "version":
		return clientv3.Compare(clientv3.Version(key), op, n), err
	case "c", "create":
		return clientv3.Compare(clientv3.CreateRevision(key), op, n), err
	}
	return clientv3.Compare(clientv3.ModRevision(key), op, n), err
}

// parseOp reads a line such as put "key" "value" as the command line that it is.
func (a *app) parseOp(line string) (clientv3.Op, error) {
	args, err := splitWords(line)
	if err != nil {
		return clientv3.Op{}, fail(exitInput, err)
	}
	if len(args) < 2 {
		return clientv3.Op{}, fail(exitInput, fmt.Errorf("invalid txn compare request: %s", line))
	}
	var op *clientv3.Op
	var opErr error
	root := a.opCommands(func(o clientv3.Op, err error) { op, opErr = &o, err })
	root.SetArgs(args)
	if err := root.Execute(); err != nil || op == nil {
		return clientv3.Op{}, fail(exitInput, fmt.Errorf("invalid txn request: %s", line))
	}
	return *op, opErr
}

// opCommands are get, put and del without the flags of a program; each hands on
// the operation that it reads.
func (a *app) opCommands(done func(clientv3.Op, error)) *cobra.Command {
	var get getFlags
	var put putFlags
	var del delFlags
	root := &cobra.Command{SilenceErrors: true}
	root.SetOut(a.o.Stderr)
	root.SetErr(a.o.Stderr)
	root.AddCommand(
		get.command(func(_ *cobra.Command, args []string) {
			key, opts, err := get.op(args)
			done(clientv3.OpGet(key, opts...), err)
		}),
		put.command(func(_ *cobra.Command, args []string) {
			key, value, opts, err := put.op(args, strings.NewReader(""))
			done(clientv3.OpPut(key, value, opts...), err)
		}),
		del.command(func(_ *cobra.Command, args []string) {
			key, opts, err := del.op(a, args)
			done(clientv3.OpDelete(key, opts...), err)
		}),
	)
	return root
}

// word matches one word of a line: in single quotes as it stands, in double quotes
// with Go's escapes, or without quotes up to the next space. A quote that is never
// closed is passed over.
var word = regexp.MustCompile(`'[^']*'|"(?:[^"\\]|\\.)*"|[^'"\s]\S*`)

// splitWords splits a line of txn or watch into words.
func splitWords(line string) ([]string, error) {
	words := word.FindAllString(line, -1)
	for i, w := range words {
		switch w[0] {
		case '\'':
			words[i] = w[1 : len(w)-1]
		case '"':
			s, err := strconv.Unquote(w)
			if err != nil {
				return nil, errors.New("invalid syntax")
			}
			words[i] = s
		}
	}
	return words, nil
}
