package offline

import (
	"github.com/spf13/cobra"
)

func (t *tool) completionCommand(root *cobra.Command) *cobra.Command {
	shells := map[string]func() error{
		"bash":       func() error { return root.GenBashCompletion(t.stdout) },
		"zsh":        func() error { return root.GenZshCompletion(t.stdout) },
		"fish":       func() error { return root.GenFishCompletion(t.stdout, true) },
		"powershell": func() error { return root.GenPowerShellCompletionWithDesc(t.stdout) },
	}
	return &cobra.Command{
		Use:                   "completion [bash|zsh|fish|powershell]",
		Short:                 "Generate completion script",
		Args:                  cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs:             []string{"bash", "zsh", "fish", "powershell"},
		DisableFlagsInUseLine: true,
		RunE:                  run(func(args []string) error { return shells[args[0]]() }),
	}
}
