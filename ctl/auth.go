package ctl

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/printer"
)

func (a *app) authCmd() *cobra.Command {
	return a.parent("auth <enable or disable>", "Enable or disable authentication",
		a.authSwitchCmd("enable", "Enables authentication", a.authEnable),
		a.authSwitchCmd("disable", "Disables authentication", a.authDisable),
		a.authSwitchCmd("status", "Returns authentication status", a.authStatus))
}

func (a *app) authSwitchCmd(name, short string, f func(context.Context, *clientv3.Client) error) *cobra.Command {
	return &cobra.Command{
		Use:   name,
		Short: short,
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			if len(args) != 0 {
				return badArgs("auth %s command does not accept any arguments", name)
			}
			c, err := a.dial(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := a.timeout()
			defer cancel()
			return f(ctx, c)
		}),
	}
}

// authEnable makes the role root and gives it to the user root if that is missing.
func (a *app) authEnable(ctx context.Context, c *clientv3.Client) error {
	_, err := c.AuthEnable(ctx)
	if errors.Is(err, rpctypes.ErrRootRoleNotExist) {
		if err := giveRootRole(ctx, c); err != nil {
			return err
		}
		_, err = c.AuthEnable(ctx)
	}
	if err != nil {
		return err
	}
	a.printf("Authentication Enabled\n")
	return nil
}

func giveRootRole(ctx context.Context, c *clientv3.Client) error {
	if _, err := c.RoleAdd(ctx, "root"); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
		return err
	}
	_, err := c.UserGrantRole(ctx, "root", "root")
	return err
}

func (a *app) authDisable(ctx context.Context, c *clientv3.Client) error {
	if _, err := c.AuthDisable(ctx); err != nil {
		return err
	}
	a.printf("Authentication Disabled\n")
	return nil
}

func (a *app) authStatus(ctx context.Context, c *clientv3.Client) error {
	resp, err := c.AuthStatus(ctx)
	if err != nil {
		return err
	}
	return a.show(printer.AuthStatus(resp))
}
