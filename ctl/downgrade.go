package ctl

import (
	"context"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/printer"
)

func (a *app) downgradeCmd() *cobra.Command {
	return a.parent("downgrade <TARGET_VERSION>", "Downgrade related commands",
		a.downgradeActionCmd("validate", "validate <TARGET_VERSION>", "Validate downgrade capability before starting downgrade", clientv3.DowngradeValidate),
		a.downgradeActionCmd("enable", "enable <TARGET_VERSION>", "Start a downgrade action to cluster", clientv3.DowngradeEnable),
		a.downgradeActionCmd("cancel", "cancel", "Cancel the ongoing downgrade action to cluster", clientv3.DowngradeCancel))
}

func (a *app) downgradeActionCmd(name, use, short string, action clientv3.DowngradeAction) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			target := ""
			if action != clientv3.DowngradeCancel {
				if len(args) < 1 {
					return badArgs("TARGET_VERSION not provided")
				}
				if len(args) > 1 {
					return badArgs("too many arguments")
				}
				target = args[0]
			}
			return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
				resp, err := c.Downgrade(ctx, action, target)
				if err != nil {
					return err
				}
				return a.show(printer.Downgrade(name, resp))
			})
		}),
	}
}
