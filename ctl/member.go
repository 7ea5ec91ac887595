package ctl

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/printer"
)

func (a *app) memberCmd() *cobra.Command {
	return a.parent("member <subcommand>", "Membership related commands",
		a.memberAddCmd(), a.memberRemoveCmd(), a.memberUpdateCmd(), a.memberListCmd(), a.memberPromoteCmd())
}

func (a *app) memberAddCmd() *cobra.Command {
	var peerURLs string
	learner := false
	cmd := &cobra.Command{
		Use:   "add <memberName> [options]",
		Short: "Adds a member into the cluster",
		Run:   a.run(func(cmd *cobra.Command, args []string) error { return a.memberAdd(cmd, args, peerURLs, learner) }),
	}
	cmd.Flags().StringVar(&peerURLs, "peer-urls", "", "comma separated peer URLs for the new member.")
	cmd.Flags().BoolVar(&learner, "learner", false, "indicates if the new member is raft learner")
	return cmd
}

func (a *app) memberAdd(cmd *cobra.Command, args []string, peerURLs string, learner bool) error {
	if len(args) < 1 {
		return badArgs("member name not provided")
	}
	if len(args) > 1 {
		return tooMany(args[1:])
	}
	if peerURLs == "" {
		return badArgs("member peer urls not provided")
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		add := c.MemberAdd
		if learner {
			add = c.MemberAddAsLearner
		}
		resp, err := add(ctx, strings.Split(peerURLs, ","))
		if err != nil {
			return err
		}
		if err := a.show(printer.MemberAdd(resp)); err != nil {
			return err
		}
		if a.print.Simple() {
			a.memberEnvironment(args[0], peerURLs, resp)
		}
		return nil
	})
}

// tooMany guesses that URLs among the arguments were meant for the flag.
func tooMany(rest []string) error {
	text := "too many arguments"
	for _, s := range rest {
		if strings.HasPrefix(s, "http:") || strings.HasPrefix(s, "https:") {
			text += ", did you mean --peer-urls=" + s
		}
	}
	return badArgs("%s", text)
}

// memberEnvironment writes what the new member is to be started with.
func (a *app) memberEnvironment(name, peerURLs string, resp *clientv3.MemberAddResponse) {
	var cluster []string
	for _, m := range resp.Members {
		for _, u := range m.PeerURLs {
			n := m.Name
			if m.ID == resp.Member.ID {
				n = name
			}
			cluster = append(cluster, n+"="+u)
		}
	}
	a.printf("\nETCD_NAME=%q\nETCD_INITIAL_CLUSTER=%q\nETCD_INITIAL_ADVERTISE_PEER_URLS=%q\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
		name, strings.Join(cluster, ","), peerURLs)
}

func (a *app) memberRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "remove <memberID>",
		Short: "Removes a member from the cluster",
		Run:   a.run(a.memberRemove),
	}
}

func (a *app) memberRemove(cmd *cobra.Command, args []string) error {
	id, err := oneMemberID(args)
	if err != nil {
		return err
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.MemberRemove(ctx, id)
		if err != nil {
			return err
		}
		return a.show(printer.MemberRemove(id, resp))
	})
}

func (a *app) memberUpdateCmd() *cobra.Command {
	var peerURLs string
	cmd := &cobra.Command{
		Use:   "update <memberID> [options]",
		Short: "Updates a member in the cluster",
		Run:   a.run(func(cmd *cobra.Command, args []string) error { return a.memberUpdate(cmd, args, peerURLs) }),
	}
	cmd.Flags().StringVar(&peerURLs, "peer-urls", "", "comma separated peer URLs for the updated member.")
	return cmd
}

func (a *app) memberUpdate(cmd *cobra.Command, args []string, peerURLs string) error {
	id, err := oneMemberID(args)
	if err != nil {
		return err
	}
	if peerURLs == "" {
		return badArgs("member peer urls not provided")
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.MemberUpdate(ctx, id, strings.Split(peerURLs, ","))
		if err != nil {
			return err
		}
		return a.show(printer.MemberUpdate(id, resp))
	})
}

func (a *app) memberListCmd() *cobra.Command {
	var level string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Lists all members in the cluster",
		Long: "When --write-out is set to simple, this command prints out comma-separated member lists for each endpoint.\n" +
			"The items in the lists are ID, Status, Name, Peer Addrs, Client Addrs, Is Learner.",
		Run: a.run(func(cmd *cobra.Command, _ []string) error { return a.memberList(cmd, level) }),
	}
	cmd.Flags().StringVar(&level, "consistency", "l", "Linearizable(l) or Serializable(s)")
	return cmd
}

func (a *app) memberList(cmd *cobra.Command, level string) error {
	shown := level
	if a.exact {
		shown = "l" // etcdctl quotes the flag of get
	}
	local, err := serializable(level, shown)
	if err != nil {
		return err
	}
	var opts []clientv3.OpOption
	if local {
		opts = append(opts, clientv3.WithSerializable())
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.MemberList(ctx, opts...)
		if err != nil {
			return err
		}
		return a.show(printer.MemberList(resp))
	})
}

func (a *app) memberPromoteCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "promote <memberID>",
		Short: "Promotes a non-voting member in the cluster",
		Long:  "Promotes a non-voting learner member to a voting one in the cluster.",
		Run:   a.run(a.memberPromote),
	}
}

func (a *app) memberPromote(cmd *cobra.Command, args []string) error {
	id, err := oneMemberID(args)
	if err != nil {
		return err
	}
	return a.withClient(cmd, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.MemberPromote(ctx, id)
		if err != nil {
			return err
		}
		return a.show(printer.MemberPromote(id, resp))
	})
}

// oneMemberID reads the id of a member as etcdctl writes it, in hexadecimal.
func oneMemberID(args []string) (uint64, error) {
	if len(args) != 1 {
		return 0, badArgs("member ID is not provided")
	}
	id, err := strconv.ParseUint(args[0], 16, 64)
	if err != nil {
		return 0, badArgs("bad member ID arg (%w), expecting ID in Hex", err)
	}
	return id, nil
}
