package ctl

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/printer"
)

func (a *app) userCmd() *cobra.Command {
	return a.parent("user <subcommand>", "User related commands",
		a.userAddCmd(), a.userDeleteCmd(), a.userGetCmd(), a.userListCmd(), a.userPasswdCmd(),
		a.userGrantRoleCmd(), a.userRevokeRoleCmd())
}

// userAddFlags say where the password of a new user comes from.
type userAddFlags struct {
	interactive, noPassword bool
	password                string
}

func (a *app) userAddCmd() *cobra.Command {
	var f userAddFlags
	cmd := &cobra.Command{
		Use:   "add <user name or user:password> [options]",
		Short: "Adds a new user",
		Run:   a.run(func(cmd *cobra.Command, args []string) error { return a.userAdd(cmd, args, &f) }),
	}
	cmd.Flags().BoolVar(&f.interactive, "interactive", true, "Read password from stdin instead of interactive terminal")
	cmd.Flags().StringVar(&f.password, "new-user-password", "", "Supply password from the command line flag")
	cmd.Flags().BoolVar(&f.noPassword, "no-password", false, "Create a user without password (CN based auth only)")
	return cmd
}

func (a *app) userAdd(cmd *cobra.Command, args []string, f *userAddFlags) error {
	if len(args) != 1 {
		return badArgs("user add command requires user name as its argument")
	}
	user, password, err := a.newUser(args[0], f)
	if err != nil {
		return err
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.UserAddWithOptions(ctx, user, password, &clientv3.UserAddOptions{NoPassword: f.noPassword})
		if err != nil {
			return err
		}
		return a.show(printer.UserAdd(user, resp))
	})
}

// newUser takes the password from the flag, from user:password, or from stdin.
func (a *app) newUser(arg string, f *userAddFlags) (user, password string, err error) {
	user, password, given := strings.Cut(arg, ":")
	if user == "" {
		return "", "", badArgs("empty user name is not allowed")
	}
	switch {
	case f.noPassword:
		return arg, "", nil
	case f.password != "":
		return arg, f.password, nil
	case given:
		return user, password, nil
	case !f.interactive:
		password, err = a.readLine()
	default:
		password, err = a.askNewPassword(user)
	}
	return user, password, err
}

func (a *app) userDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "delete <user name>",
		Short: "Deletes a user",
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("user delete command requires user name as its argument")
			}
			return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
				resp, err := c.UserDelete(ctx, args[0])
				if err != nil {
					return err
				}
				return a.show(printer.UserDelete(args[0], resp))
			})
		}),
	}
}

func (a *app) userGetCmd() *cobra.Command {
	detail := false
	cmd := &cobra.Command{
		Use:   "get <user name> [options]",
		Short: "Gets detailed information of a user",
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("user get command requires user name as its argument")
			}
			return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
				return a.userGet(ctx, c, args[0], detail)
			})
		}),
	}
	cmd.Flags().BoolVar(&detail, "detail", false, "Show permissions of roles granted to the user")
	return cmd
}

func (a *app) userGet(ctx context.Context, c *clientv3.Client, user string, detail bool) error {
	resp, err := c.UserGet(ctx, user)
	if err != nil {
		return err
	}
	if !detail {
		return a.show(printer.UserGet(user, resp))
	}
	a.printf("User: %s\n", user)
	for _, role := range resp.Roles {
		a.printf("\n")
		r, err := c.RoleGet(ctx, role)
		if err != nil {
			return err
		}
		if err := a.show(printer.RoleGet(role, r)); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) userListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Lists all users",
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			if len(args) != 0 {
				return badArgs("user list command requires no arguments")
			}
			return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
				resp, err := c.UserList(ctx)
				if err != nil {
					return err
				}
				return a.show(printer.UserList(resp))
			})
		}),
	}
}

func (a *app) userPasswdCmd() *cobra.Command {
	interactive := true
	cmd := &cobra.Command{
		Use:   "passwd <user name> [options]",
		Short: "Changes password of user",
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("user passwd command requires user name as its argument")
			}
			ask := a.askNewPassword
			if !interactive {
				ask = func(string) (string, error) { return a.readLine() }
			}
			password, err := ask(args[0])
			if err != nil {
				return err
			}
			return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
				resp, err := c.UserChangePassword(ctx, args[0], password)
				if err != nil {
					return err
				}
				return a.show(printer.UserChangePassword(resp))
			})
		}),
	}
	cmd.Flags().BoolVar(&interactive, "interactive", true, "If true, read password from stdin instead of interactive terminal")
	return cmd
}

func (a *app) userGrantRoleCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "grant-role <user name> <role name>",
		Short: "Grants a role to a user",
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return badArgs("user grant command requires user name and role name as its argument")
			}
			return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
				resp, err := c.UserGrantRole(ctx, args[0], args[1])
				if err != nil {
					return err
				}
				return a.show(printer.UserGrantRole(args[0], args[1], resp))
			})
		}),
	}
}

func (a *app) userRevokeRoleCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke-role <user name> <role name>",
		Short: "Revokes a role from a user",
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return badArgs("user revoke-role requires user name and role name as its argument")
			}
			return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
				resp, err := c.UserRevokeRole(ctx, args[0], args[1])
				if err != nil {
					return err
				}
				return a.show(printer.UserRevokeRole(args[0], args[1], resp))
			})
		}),
	}
}
