package ctl

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Groups of commands in the help of the program.
const (
	groupKV      = "kv"
	groupCluster = "cluster"
	groupSync    = "concurrency"
	groupAuth    = "auth"
	groupUtility = "utility"
)

// root makes the tree of commands. Their order is that in which etcdctl proposes
// commands for a name that it does not know.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:               lastWord(a.name),
		Short:             "A simple command line client for etcd3.",
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	if !a.exact {
		root.SilenceErrors, root.SilenceUsage = true, true
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: a.name}
	}
	root.SetIn(a.o.Stdin)
	// What cobra says by itself is about mistakes, except for completions; help
	// names stdout itself.
	root.SetOut(a.o.Stderr)
	root.SetErr(a.o.Stderr)
	root.AddGroup(
		&cobra.Group{ID: groupKV, Title: "Key-value commands"},
		&cobra.Group{ID: groupCluster, Title: "Cluster maintenance commands"},
		&cobra.Group{ID: groupSync, Title: "Concurrency commands"},
		&cobra.Group{ID: groupAuth, Title: "Authentication commands"},
		&cobra.Group{ID: groupUtility, Title: "Utility commands"},
	)
	root.SetHelpCommandGroupID(groupUtility)
	a.g.define(root)
	root.Flags().BoolP("help", "h", false, "help for "+a.name)
	root.Flags().Lookup("help").Hidden = true
	a.addCommands(root)
	a.setHelp(root)
	return root
}

func (a *app) addCommands(root *cobra.Command) {
	add := func(group string, cmd *cobra.Command) {
		cmd.GroupID = group
		root.AddCommand(cmd)
	}
	add(groupKV, a.getCmd())
	add(groupKV, a.putCmd())
	add(groupKV, a.delCmd())
	add(groupKV, a.txnCmd())
	add(groupKV, a.compactionCmd())
	add(groupCluster, a.alarmCmd())
	add(groupCluster, a.defragCmd())
	add(groupCluster, a.endpointCmd())
	add(groupCluster, a.moveLeaderCmd())
	add(groupKV, a.watchCmd())
	add(groupUtility, a.versionCmd())
	add(groupKV, a.leaseCmd())
	add(groupCluster, a.memberCmd())
	add(groupCluster, a.snapshotCmd())
	add(groupUtility, a.mirrorCmd())
	add(groupSync, a.lockCmd())
	add(groupSync, a.electCmd())
	add(groupAuth, a.authCmd())
	add(groupAuth, a.userCmd())
	add(groupAuth, a.roleCmd())
	add(groupUtility, a.checkCmd())
	add(groupUtility, a.completionCmd())
	add(groupCluster, a.downgradeCmd())
	add(groupUtility, a.optionsCmd())
}

// parent makes a command that only holds others.
func (a *app) parent(use, what string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Long: what}
	cmd.Short = what + ". Use `" + a.name + " " + cmd.Name() + " --help` to see subcommands"
	cmd.AddCommand(children...)
	return cmd
}

func (a *app) optionsCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "options",
		Short: "Show the global command-line flags",
		Run: a.run(func(cmd *cobra.Command, _ []string) error {
			a.printf("The following options can be passed to any command:\n\n%s", globalUsages(cmd.Root()))
			return nil
		}),
	}
}

// globalUsages describes the global flags, which are hidden everywhere else.
func globalUsages(root *cobra.Command) string {
	shown := pflag.NewFlagSet("", pflag.ContinueOnError)
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		c := *f
		c.Hidden = false
		shown.AddFlag(&c)
	})
	return shown.FlagUsages()
}

func lastWord(s string) string { return s[strings.LastIndex(s, " ")+1:] }
