package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/printer"
)

// watchFlags are the flags of watch, also within a line of interactive mode.
type watchFlags struct {
	rev                            int64
	prefix, prevKV, progressNotify bool
	interactive                    bool
}

func (a *app) watchCmd() *cobra.Command {
	var f watchFlags
	return f.command(a.run(func(cmd *cobra.Command, args []string) error { return a.watch(cmd, args, &f) }))
}

// command makes the command, to run on its own or to be read from a line.
func (f *watchFlags) command(run func(*cobra.Command, []string)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch [options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
		Short: "Watches events stream on keys or prefixes",
		Run:   run,
	}
	fs := cmd.Flags()
	fs.BoolVarP(&f.interactive, "interactive", "i", false, "Interactive mode")
	fs.BoolVar(&f.prefix, "prefix", false, "Watch on a prefix if prefix is set")
	fs.Int64Var(&f.rev, "rev", 0, "Revision to start watching")
	fs.BoolVar(&f.prevKV, "prev-kv", false, "get the previous key-value pair before the event happens")
	fs.BoolVar(&f.progressNotify, "progress-notify", false, "get periodic watch progress notification from server")
	return cmd
}

func (a *app) watch(cmd *cobra.Command, args []string, f *watchFlags) error {
	if f.interactive {
		return a.watchInteractive(cmd)
	}
	keys, command, err := watchArgs(cmd, args)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return badArgs("bad number of arguments")
	}
	c, err := a.dial(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	w := &watcher{app: a, c: c}
	ch, err := w.start(keys, f)
	if err != nil {
		return fail(exitBadArgs, err)
	}
	if err := w.follow(ch, command); err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return fail(exitConnection, err)
	}
	return fail(exitInterrupted, errors.New("watch is canceled by the server"))
}

// watchArgs tells the keys from the command behind "--". Keys may stand in the
// environment instead, but not in both places.
func watchArgs(cmd *cobra.Command, args []string) (keys, command []string, err error) {
	keys = args
	if n := cmd.ArgsLenAtDash(); n >= 0 {
		keys, command = args[:n], args[n:]
		if len(command) == 0 {
			return nil, nil, badArgs("bad number of arguments (found separator --, but no commands)")
		}
	}
	key, end := os.Getenv(envWatchKey), os.Getenv(envWatchEnd)
	switch {
	case key == "" && end != "":
		return nil, nil, badArgs("%s is empty but got %s=%q", envWatchKey, envWatchEnd, end)
	case key == "":
		return keys, command, nil
	case len(keys) > 0:
		return nil, nil, badArgs("bad number of arguments (found conflicting environment key)")
	case end != "":
		return []string{key, end}, command, nil
	}
	return []string{key}, command, nil
}

// watcher shows several watches of one client.
type watcher struct {
	*app
	c  *clientv3.Client
	mu sync.Mutex // one response is shown at a time
}

func (w *watcher) start(keys []string, f *watchFlags) (clientv3.WatchChan, error) {
	key := keys[0]
	opts := []clientv3.OpOption{clientv3.WithRev(f.rev)}
	switch {
	case len(keys) > 1 && f.prefix:
		return nil, errors.New("`range_end` and `--prefix` are mutually exclusive")
	case len(keys) > 1:
		opts = append(opts, clientv3.WithRange(keys[1]))
	case f.prefix:
		opts = append(opts, clientv3.WithPrefix())
	}
	if f.prevKV {
		opts = append(opts, clientv3.WithPrevKV())
	}
	if f.progressNotify {
		opts = append(opts, clientv3.WithProgressNotify())
	}
	return w.c.Watch(clientv3.WithRequireLeader(context.Background()), key, opts...), nil
}

// follow shows what arrives until the watch ends.
func (w *watcher) follow(ch clientv3.WatchChan, command []string) error {
	for resp := range ch {
		if err := w.response(&resp, command); err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) response(resp *clientv3.WatchResponse, command []string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if resp.Canceled {
		w.errorf("watch was canceled (%v)\n", resp.Err())
	}
	if resp.IsProgressNotify() {
		w.printf("progress notify: %d\n", resp.Header.Revision)
	}
	if err := w.show(printer.Watch(resp)); err != nil {
		return err
	}
	if len(command) == 0 {
		return nil
	}
	for _, e := range resp.Events {
		if err := w.exec(resp.Header.Revision, e, command); err != nil {
			w.errorf("command %q error (%v)\n", command, err)
			return reported(exitError)
		}
	}
	return nil
}

// exec runs the command for one event, which stands in its environment.
func (w *watcher) exec(rev int64, e *clientv3.Event, command []string) error {
	c := exec.Command(command[0], command[1:]...)
	c.Env = environ(
		fmt.Sprintf("ETCD_WATCH_REVISION=%d", rev),
		fmt.Sprintf("ETCD_WATCH_EVENT_TYPE=%q", e.Type),
		fmt.Sprintf("ETCD_WATCH_KEY=%q", e.Kv.Key),
		fmt.Sprintf("ETCD_WATCH_VALUE=%q", e.Kv.Value),
	)
	c.Stdout, c.Stderr = w.o.Stdout, w.o.Stderr
	return c.Run()
}

// watchInteractive reads lines "watch …" and "progress" until stdin ends, which is
// an error.
func (a *app) watchInteractive(cmd *cobra.Command) error {
	c, err := a.dial(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	w := &watcher{app: a, c: c}
	failed := make(chan error, 1)
	for {
		line, err := w.nextLine(failed)
		if err != nil {
			return err
		}
		if err := w.line(line, failed); err != nil {
			return err
		}
	}
}

// nextLine waits for a line, or for the failure of a watch that goes on meanwhile.
// A read of stdin cannot be called off; after a failure it is left behind, since
// the program ends.
func (w *watcher) nextLine(failed <-chan error) (string, error) {
	type read struct {
		line string
		err  error
	}
	lines := make(chan read, 1)
	go func() {
		s, err := w.in.ReadString('\n')
		lines <- read{s, err}
	}()
	select {
	case r := <-lines:
		if r.err != nil {
			return "", fail(exitInput, fmt.Errorf("error reading watch request line: %w", io.EOF))
		}
		return strings.TrimSuffix(r.line, "\n"), nil
	case err := <-failed:
		return "", err
	}
}

// line obeys one line. Only what cannot be read as a command line at all ends the session.
func (w *watcher) line(line string, failed chan<- error) error {
	words, err := splitWords(line)
	if err != nil {
		return fail(exitInput, err)
	}
	if len(words) == 0 {
		w.errorf("Invalid command: %s (watch and progress supported)\n", line)
		return nil
	}
	switch words[0] {
	case "progress":
		ctx := clientv3.WithRequireLeader(context.Background())
		if err := w.c.RequestProgress(ctx); err != nil {
			w.errorf("%v\n", err)
		}
		return nil
	case "watch":
	default:
		w.errorf("Invalid command %s (only support watch)\n", line)
		return nil
	}
	if len(words) < 2 && os.Getenv(envWatchKey) == "" {
		w.errorf("Invalid command %s (command type or key is not provided)\n", line)
		return nil
	}
	return w.watchLine(line, words[1:], failed)
}

func (w *watcher) watchLine(line string, args []string, failed chan<- error) error {
	var f watchFlags
	cmd := f.command(nil)
	if err := cmd.ParseFlags(args); err != nil {
		return fail(exitBadArgs, err)
	}
	keys, command, err := watchArgs(cmd, cmd.Flags().Args())
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		w.errorf("Invalid command %s (bad number of arguments)\n", line)
		return nil
	}
	ch, err := w.start(keys, &f)
	if err != nil {
		w.errorf("Invalid command %s (%v)\n", line, err)
		return nil
	}
	go func() {
		if err := w.follow(ch, command); err != nil {
			failed <- err
		}
	}()
	return nil
}
