package ctl

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/printer"
)

func (a *app) roleCmd() *cobra.Command {
	return a.parent("role <subcommand>", "Role related commands",
		a.roleAddCmd(), a.roleDeleteCmd(), a.roleGetCmd(), a.roleListCmd(), a.roleGrantCmd(), a.roleRevokeCmd())
}

func (a *app) roleAddCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "add <role name>",
		Short: "Adds a new role",
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("role add command requires role name as its argument")
			}
			return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
				resp, err := c.RoleAdd(ctx, args[0])
				if err != nil {
					return err
				}
				return a.show(printer.RoleAdd(args[0], resp))
			})
		}),
	}
}

func (a *app) roleDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "delete <role name>",
		Short: "Deletes a role",
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("role delete command requires role name as its argument")
			}
			return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
				resp, err := c.RoleDelete(ctx, args[0])
				if err != nil {
					return err
				}
				return a.show(printer.RoleDelete(args[0], resp))
			})
		}),
	}
}

func (a *app) roleGetCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "get <role name>",
		Short: "Gets detailed information of a role",
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("role get command requires role name as its argument")
			}
			return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
				resp, err := c.RoleGet(ctx, args[0])
				if err != nil {
					return err
				}
				return a.show(printer.RoleGet(args[0], resp))
			})
		}),
	}
}

func (a *app) roleListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Lists all roles",
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			if len(args) != 0 {
				return badArgs("role list command requires no arguments")
			}
			return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
				resp, err := c.RoleList(ctx)
				if err != nil {
					return err
				}
				return a.show(printer.RoleList(resp))
			})
		}),
	}
}

func (a *app) roleGrantCmd() *cobra.Command {
	var r permissionRange
	cmd := &cobra.Command{
		Use:   "grant-permission [options] <role name> <permission type> <key> [endkey]",
		Short: "Grants a key to a role",
		Run:   a.run(func(cmd *cobra.Command, args []string) error { return a.roleGrant(cmd, args, &r) }),
	}
	cmd.Flags().BoolVar(&r.prefix, "prefix", false, "grant a prefix permission")
	cmd.Flags().BoolVar(&r.fromKey, "from-key", false, "grant a permission of keys that are greater than or equal to the given key using byte compare")
	return cmd
}

func (a *app) roleGrant(cmd *cobra.Command, args []string, r *permissionRange) error {
	if len(args) < 3 {
		return badArgs("role grant command requires role name, permission type, and key [endkey] as its argument")
	}
	perm, err := clientv3.StrToPermissionType(args[1])
	if err != nil {
		return fail(exitBadArgs, err)
	}
	key, end, err := r.of(args[2:])
	if err != nil {
		return fail(exitBadArgs, err)
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.RoleGrantPermission(ctx, args[0], key, end, perm)
		if err != nil {
			return err
		}
		return a.show(printer.RoleGrantPermission(args[0], resp))
	})
}

func (a *app) roleRevokeCmd() *cobra.Command {
	var r permissionRange
	cmd := &cobra.Command{
		Use:   "revoke-permission <role name> <key> [endkey]",
		Short: "Revokes a key from a role",
		Run:   a.run(func(cmd *cobra.Command, args []string) error { return a.roleRevoke(cmd, args, &r) }),
	}
	cmd.Flags().BoolVar(&r.prefix, "prefix", false, "revoke a prefix permission")
	cmd.Flags().BoolVar(&r.fromKey, "from-key", false, "revoke a permission of keys that are greater than or equal to the given key using byte compare")
	return cmd
}

func (a *app) roleRevoke(cmd *cobra.Command, args []string, r *permissionRange) error {
	if len(args) < 2 {
		return badArgs("role revoke-permission command requires role name and key [endkey] as its argument")
	}
	key, end, err := r.of(args[1:])
	if err != nil {
		return fail(exitBadArgs, err)
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.RoleRevokePermission(ctx, args[0], key, end)
		if err != nil {
			return err
		}
		return a.show(printer.RoleRevokePermission(args[0], args[1], end, resp))
	})
}

// permissionRange are the flags that turn a key into a range.
type permissionRange struct{ prefix, fromKey bool }

// of reads <key> [endkey]. An empty key is the first key there can be.
func (r *permissionRange) of(args []string) (key, end string, err error) {
	key = args[0]
	if len(args) > 1 {
		end = args[1]
	}
	switch {
	case r.prefix && r.fromKey:
		return "", "", fmt.Errorf("--from-key and --prefix flags are mutually exclusive")
	case key == "" && !r.prefix && !r.fromKey:
		return "\x00", "", nil
	case key == "":
		return "\x00", "\x00", nil
	case r.prefix && len(args) > 1:
		return "", "", fmt.Errorf("unexpected endkey argument with --prefix flag")
	case r.fromKey && len(args) > 1:
		return "", "", fmt.Errorf("unexpected endkey argument with --from-key flag")
	case r.prefix:
		return key, clientv3.GetPrefixRangeEnd(key), nil
	case r.fromKey:
		return key, "\x00", nil
	}
	return key, end, nil
}
