package ctl

import (
	"time"

	"github.com/spf13/cobra"
)

func (a *app) defragCmd() *cobra.Command {
	all := false
	cmd := &cobra.Command{
		Use:   "defrag",
		Short: "Defragments the storage of the etcd members with given endpoints",
		Run:   a.run(func(cmd *cobra.Command, _ []string) error { return a.defrag(cmd, &all) }),
	}
	cmd.PersistentFlags().BoolVar(&all, "cluster", false, "use all endpoints from the cluster member list")
	return cmd
}

// defrag takes one member after the other, since each may be slow meanwhile.
func (a *app) defrag(cmd *cobra.Command, all *bool) error {
	c, endpoints, err := a.dialEndpoints(cmd, all)
	if err != nil {
		return err
	}
	defer c.Close()
	var failed error
	for _, ep := range endpoints {
		bar := a.progress("defragmenting " + ep)
		ctx, cancel := a.timeout()
		start := time.Now()
		_, err := c.Defragment(ctx, ep)
		took := time.Since(start)
		cancel()
		bar.stop()
		if err != nil {
			a.errorf("Failed to defragment etcd member[%s]. took %s. (%v)\n", ep, took, err)
			failed = reported(exitError)
			continue
		}
		a.printf("Finished defragmenting etcd member[%s]. took %s\n", ep, took)
	}
	return failed
}
