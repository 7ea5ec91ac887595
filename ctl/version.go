package ctl

import (
	"fmt"

	"github.com/spf13/cobra"

	"theseus/version"
)

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints the version of etcdctl",
		Run: a.run(func(*cobra.Command, []string) error {
			a.printf("%s", VersionText("etcdctl"))
			return nil
		}),
	}
}

// VersionText is what the program of etcd that we stand in for says about its version.
func VersionText(program string) string {
	v := version.Current
	return fmt.Sprintf("%s version: %v\nAPI version: %d.%d\n", program, v, v.Major, v.Minor)
}
