package offline

import (
	"fmt"

	"github.com/spf13/cobra"

	"theseus/version"
)

func (t *tool) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints the version of etcdutl",
		RunE: run(func([]string) error {
			_, err := fmt.Fprintf(t.stdout, "etcdutl version: %s\nAPI version: %s\n", version.Current, version.Current.MinorString())
			return err
		}),
	}
}
