package ctl

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"theseus/printer"
)

// lockTTL is how long a lock outlives a program that was killed, in seconds.
const lockTTL = 10

func (a *app) lockCmd() *cobra.Command {
	ttl := 0
	cmd := &cobra.Command{
		Use:   "lock <lockname> [exec-command arg1 arg2 ...]",
		Short: "Acquires a named lock",
		Run:   a.run(func(cmd *cobra.Command, args []string) error { return a.lock(cmd, args, ttl) }),
	}
	cmd.Flags().IntVar(&ttl, "ttl", lockTTL, "timeout for session")
	return cmd
}

func (a *app) lock(cmd *cobra.Command, args []string, ttl int) error {
	if len(args) == 0 {
		return badArgs("lock takes a lock name argument and an optional command to execute")
	}
	c, err := a.dial(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := concurrency.NewSession(c, concurrency.WithTTL(ttl))
	if err != nil {
		return err
	}
	// A signal ends the wait for the lock, or the holding of it; the lock is given
	// back either way.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	m := concurrency.NewMutex(s, args[0])
	if err := m.Lock(ctx); err != nil {
		s.Close()
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if len(args) > 1 {
		return a.holdFor(m, s, args[1:])
	}
	return a.hold(ctx, c, m, s)
}

// holdFor holds the lock while a command runs, whose exit code becomes ours.
func (a *app) holdFor(m *concurrency.Mutex, s *concurrency.Session, args []string) error {
	c := exec.Command(args[0], args[1:]...)
	c.Env = environ("ETCD_LOCK_KEY="+m.Key(), "ETCD_LOCK_REV="+strconv.FormatInt(m.Header().Revision, 10))
	c.Stdin, c.Stdout, c.Stderr = a.o.Stdin, a.o.Stdout, a.o.Stderr
	err := c.Run()
	unlockErr := release(m.Unlock, s)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return passed(exit.ExitCode(), err)
	case err != nil:
		return err
	}
	return unlockErr
}

// hold shows the key and holds the lock until a signal, or the loss of the lease.
func (a *app) hold(ctx context.Context, c *clientv3.Client, m *concurrency.Mutex, s *concurrency.Session) error {
	resp, err := c.Get(ctx, m.Key())
	if err != nil {
		return err
	}
	if len(resp.Kvs) == 0 {
		return errors.New("lock lost on init")
	}
	if err := a.show(printer.Get(resp)); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return release(m.Unlock, s)
	case <-s.Done():
		return errExpired
	}
}

// release gives back a lock or an office, and its lease.
func release(give func(context.Context) error, s *concurrency.Session) error {
	err := give(context.Background())
	if closeErr := s.Close(); err == nil {
		err = closeErr
	}
	return err
}
