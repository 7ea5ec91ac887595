package ctl

import (
	"strings"

	"github.com/spf13/cobra"
)

// helpTemplate is cobra's, and a line about the flags that help does not list.
const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}`

// setHelp gives the tree etcdctl's help, or under our own name the manual.
func (a *app) setHelp(root *cobra.Command) {
	showHelp := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		cmd.SetOut(a.o.Stdout)
		showHelp(cmd, args)
	})
	root.SetHelpTemplate(helpTemplate + `Use "` + a.name + ` options" for a list of global command-line options (applies to all commands).
`)
	if a.exact {
		return
	}
	root.Short = "Talks to a Theseus or etcd cluster."
	root.Long = manRoot
	visit(root, func(cmd *cobra.Command) {
		path := strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), a.name), " ")
		if m, ok := manual[path]; ok {
			cmd.Long = m.text
			cmd.Example = indent(strings.ReplaceAll(m.examples, "CTL", a.name))
		}
	})
}

func visit(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		visit(c, f)
	}
}

// indent moves every line two columns in, empty ones too, as etcdctl does.
func indent(s string) string {
	if s == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(s, "\n", "\n  ")
}
