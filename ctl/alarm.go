package ctl

import (
	"context"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/printer"
)

func (a *app) alarmCmd() *cobra.Command {
	return a.parent("alarm <subcommand>", "Alarm related commands",
		a.alarmDisarmCmd(), a.alarmListCmd())
}

func (a *app) alarmDisarmCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "disarm",
		Short: "Disarms all alarms",
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			return a.alarm(cmd, args, "disarm", func(ctx context.Context, c *clientv3.Client) (*clientv3.AlarmResponse, error) {
				return c.AlarmDisarm(ctx, &clientv3.AlarmMember{})
			})
		}),
	}
}

func (a *app) alarmListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Lists all alarms",
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			return a.alarm(cmd, args, "list", func(ctx context.Context, c *clientv3.Client) (*clientv3.AlarmResponse, error) {
				return c.AlarmList(ctx)
			})
		}),
	}
}

func (a *app) alarm(cmd *cobra.Command, args []string, name string,
	call func(context.Context, *clientv3.Client) (*clientv3.AlarmResponse, error)) error {
	if len(args) != 0 {
		return badArgs("alarm %s command accepts no arguments", name)
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := call(ctx, c)
		if err != nil {
			return err
		}
		return a.show(printer.Alarms(resp))
	})
}
