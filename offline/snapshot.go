package offline

import "github.com/spf13/cobra"

// snapshotCommand is the parent of status and restore.
func (t *tool) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot <subcommand>",
		Short: "Manages etcd node snapshots",
	}
	cmd.AddCommand(t.statusCommand(), t.restoreCommand())
	return cmd
}
