package ctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"theseus/printer"
)

func (a *app) electCmd() *cobra.Command {
	listen := false
	cmd := &cobra.Command{
		Use:   "elect <election-name> [proposal]",
		Short: "Observes and participates in leader election",
		Run:   a.run(func(cmd *cobra.Command, args []string) error { return a.elect(cmd, args, listen) }),
	}
	cmd.Flags().BoolVarP(&listen, "listen", "l", false, "observation mode")
	return cmd
}

func (a *app) elect(cmd *cobra.Command, args []string, listen bool) error {
	if len(args) != 1 && len(args) != 2 {
		return badArgs("elect takes one election name argument and an optional proposal argument")
	}
	if len(args) == 1 && !listen {
		return badArgs("no proposal argument but -l not set")
	}
	c, err := a.dial(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if listen {
		return a.observe(ctx, c, args[0])
	}
	return a.campaign(ctx, c, args[0], args[1])
}

// observe shows every leader until a signal.
func (a *app) observe(ctx context.Context, c *clientv3.Client, name string) error {
	s, err := concurrency.NewSession(c)
	if err != nil {
		return err
	}
	defer s.Close()
	for resp := range concurrency.NewElection(s, name).Observe(ctx) {
		if err := a.show(printer.Get(resp)); err != nil {
			return err
		}
	}
	if ctx.Err() == nil {
		return errors.New("elect: observer lost")
	}
	return nil
}

// campaign waits to be the leader, shows it, and stays so until a signal, or the
// loss of the lease.
func (a *app) campaign(ctx context.Context, c *clientv3.Client, name, proposal string) error {
	s, err := concurrency.NewSession(c)
	if err != nil {
		return err
	}
	e := concurrency.NewElection(s, name)
	if err := e.Campaign(ctx, proposal); err != nil {
		s.Close()
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	resp, err := c.Get(ctx, e.Key())
	if err != nil {
		return err
	}
	if err := a.show(printer.Get(resp)); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return release(e.Resign, s)
	case <-s.Done():
		return fmt.Errorf("elect: %w", errExpired)
	}
}
