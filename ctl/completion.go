package ctl

import (
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) completionCmd() *cobra.Command {
	return &cobra.Command{
		Use:                   "completion [bash|zsh|fish|powershell]",
		Short:                 "Generate completion script",
		Long:                  completionHelp(a.name),
		DisableFlagsInUseLine: true,
		ValidArgs:             []string{"bash", "zsh", "fish", "powershell"},
		Args:                  cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		Run: a.run(func(cmd *cobra.Command, args []string) error {
			return a.completion(cmd.Root(), args[0])
		}),
	}
}

// completion writes the script for the program that is called: of "theseus ctl"
// that is theseus, which asks its part of the words on.
func (a *app) completion(root *cobra.Command, shell string) error {
	program, _, _ := strings.Cut(a.name, " ")
	if program != root.Name() {
		root = &cobra.Command{Use: program}
	}
	switch {
	case shell == "bash" && a.exact:
		return root.GenBashCompletion(a.o.Stdout)
	case shell == "bash":
		return root.GenBashCompletionV2(a.o.Stdout, true)
	case shell == "zsh":
		return root.GenZshCompletion(a.o.Stdout)
	case shell == "fish":
		return root.GenFishCompletion(a.o.Stdout, true)
	}
	return root.GenPowerShellCompletionWithDesc(a.o.Stdout)
}

// completionHelp tells how to load the scripts, in the words that cobra's own
// manual has for it.
func completionHelp(name string) string {
	program, _, _ := strings.Cut(name, " ")
	return strings.NewReplacer("NAME", name, "PROGRAM", program).Replace(`To load completions:

Bash:

  $ source <(NAME completion bash)

  # To load completions for each session, execute once:
  # Linux:
  $ NAME completion bash > /etc/bash_completion.d/PROGRAM
  # macOS:
  $ NAME completion bash > /usr/local/etc/bash_completion.d/PROGRAM

Zsh:

  # If shell completion is not already enabled in your environment,
  # you will need to enable it.  You can execute the following once:

  $ echo "autoload -U compinit; compinit" >> ~/.zshrc

  # To load completions for each session, execute once:
  $ NAME completion zsh > "${fpath[1]}/_PROGRAM"

  # You will need to start a new shell for this setup to take effect.

fish:

  $ NAME completion fish | source

  # To load completions for each session, execute once:
  $ NAME completion fish > ~/.config/fish/completions/PROGRAM.fish

PowerShell:

  PS> NAME completion powershell | Out-String | Invoke-Expression

  # To load completions for every new session, run:
  PS> NAME completion powershell > PROGRAM.ps1
  # and source this file from your PowerShell profile.
`)
}
