package ctl

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/printer"
)

func (a *app) moveLeaderCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "move-leader <transferee-member-id>",
		Short: "Transfers leadership to another etcd cluster member.",
		Run:   a.run(a.moveLeader),
	}
}

func (a *app) moveLeader(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return badArgs("move-leader command needs 1 argument")
	}
	target, err := strconv.ParseUint(args[0], 16, 64)
	if err != nil {
		return fail(exitBadArgs, err)
	}
	if err := a.begin(cmd); err != nil {
		return err
	}
	cfg, err := a.config()
	if err != nil {
		return err
	}
	leader, id, err := a.findLeader(cfg)
	if err != nil {
		return err
	}
	cfg.Endpoints = []string{leader} // only the leader takes the request
	c, err := a.open(cfg, "etcd-client")
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := a.timeout()
	defer cancel()
	resp, err := c.MoveLeader(ctx, target)
	if err != nil {
		return err
	}
	return a.show(printer.MoveLeader(id, target, resp))
}

// findLeader returns the endpoint and the id of the leader.
func (a *app) findLeader(cfg clientv3.Config) (endpoint string, id uint64, err error) {
	c, err := a.open(cfg, "etcd-client")
	if err != nil {
		return "", 0, err
	}
	defer c.Close()
	for _, ep := range cfg.Endpoints {
		ctx, cancel := a.timeout()
		resp, err := c.Status(ctx, ep)
		cancel()
		if err != nil {
			return "", 0, err
		}
		if resp.Leader == resp.Header.GetMemberId() {
			return ep, resp.Leader, nil
		}
	}
	return "", 0, fail(exitBadArgs, fmt.Errorf("no leader endpoint given at %v", cfg.Endpoints))
}
