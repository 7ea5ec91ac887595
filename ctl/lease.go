package ctl

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/printer"
)

func (a *app) leaseCmd() *cobra.Command {
	return a.parent("lease <subcommand>", "Lease related commands",
		a.leaseGrantCmd(), a.leaseRevokeCmd(), a.leaseTimeToLiveCmd(), a.leaseListCmd(), a.leaseKeepAliveCmd())
}

func (a *app) leaseGrantCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "grant <ttl>",
		Short: "Creates leases",
		Run:   a.run(a.leaseGrant),
	}
}

func (a *app) leaseGrant(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return badArgs("lease grant command needs TTL argument")
	}
	ttl, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return badArgs("bad TTL (%w)", err)
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Grant(ctx, ttl)
		if err != nil {
			return fmt.Errorf("failed to grant lease (%w)", err)
		}
		return a.show(printer.LeaseGrant(resp))
	})
}

func (a *app) leaseRevokeCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke <leaseID>",
		Short: "Revokes leases",
		Run:   a.run(a.leaseRevoke),
	}
}

func (a *app) leaseRevoke(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return badArgs("lease revoke command needs 1 argument")
	}
	id, err := leaseID(args[0])
	if err != nil {
		return err
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Revoke(ctx, id)
		if err != nil {
			return fmt.Errorf("failed to revoke lease (%w)", err)
		}
		return a.show(printer.LeaseRevoke(id, resp))
	})
}

func (a *app) leaseTimeToLiveCmd() *cobra.Command {
	keys := false
	cmd := &cobra.Command{
		Use:   "timetolive <leaseID> [options]",
		Short: "Get lease information",
		Run:   a.run(func(cmd *cobra.Command, args []string) error { return a.leaseTimeToLive(cmd, args, keys) }),
	}
	cmd.Flags().BoolVar(&keys, "keys", false, "Get keys attached to this lease")
	return cmd
}

func (a *app) leaseTimeToLive(cmd *cobra.Command, args []string, keys bool) error {
	if len(args) != 1 {
		return badArgs("lease timetolive command needs lease ID as argument")
	}
	id, err := leaseID(args[0])
	if err != nil {
		return err
	}
	var opts []clientv3.LeaseOption
	if keys {
		opts = append(opts, clientv3.WithAttachedKeys())
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.TimeToLive(ctx, id, opts...)
		if err != nil {
			return fail(exitConnection, err)
		}
		return a.show(printer.LeaseTimeToLive(resp, keys))
	})
}

func (a *app) leaseListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all active leases",
		Run:   a.run(a.leaseList),
	}
}

func (a *app) leaseList(cmd *cobra.Command, _ []string) error {
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Leases(ctx)
		if err != nil {
			return fail(exitConnection, err)
		}
		return a.show(printer.Leases(resp))
	})
}

func (a *app) leaseKeepAliveCmd() *cobra.Command {
	once := false
	cmd := &cobra.Command{
		Use:   "keep-alive [options] <leaseID>",
		Short: "Keeps leases alive (renew)",
		Run:   a.run(func(cmd *cobra.Command, args []string) error { return a.leaseKeepAlive(cmd, args, once) }),
	}
	cmd.Flags().BoolVar(&once, "once", false, "Resets the keep-alive time to its original value and cobrautl.Exits immediately")
	return cmd
}

func (a *app) leaseKeepAlive(cmd *cobra.Command, args []string, once bool) error {
	if len(args) != 1 {
		return badArgs("lease keep-alive command needs lease ID as argument")
	}
	id, err := leaseID(args[0])
	if err != nil {
		return err
	}
	c, err := a.dial(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	if once {
		return a.keepAliveOnce(c, id)
	}
	ch, err := c.KeepAlive(context.Background(), id)
	if err != nil {
		return fail(exitConnection, err)
	}
	for resp := range ch {
		if err := a.show(printer.LeaseKeepAlive(resp)); err != nil {
			return err
		}
	}
	if a.print.Simple() {
		a.printf("lease %016x expired or revoked.\n", id)
	}
	return nil
}

// keepAliveOnce renews within the command's timeout, where etcdctl waits for ever
// for an endpoint that does not answer.
func (a *app) keepAliveOnce(c *clientv3.Client, id clientv3.LeaseID) error {
	ctx, cancel := a.timeout()
	defer cancel()
	resp, err := c.KeepAliveOnce(ctx, id)
	if err != nil {
		return fail(exitConnection, err)
	}
	return a.show(printer.LeaseKeepAlive(resp))
}

// leaseID reads the id of a lease as etcdctl writes it, in hexadecimal.
func leaseID(s string) (clientv3.LeaseID, error) {
	id, err := strconv.ParseInt(s, 16, 64)
	if err != nil {
		return 0, badArgs("bad lease ID arg (%w), expecting ID in Hex", err)
	}
	return clientv3.LeaseID(id), nil
}

// errExpired ends lock and elect when their lease is gone.
var errExpired = errors.New("session expired")
