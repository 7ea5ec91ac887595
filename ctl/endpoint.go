package ctl

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/printer"
)

func (a *app) endpointCmd() *cobra.Command {
	all := false
	cmd := a.parent("endpoint <subcommand>", "Endpoint related commands",
		a.endpointHealthCmd(&all), a.endpointStatusCmd(&all), a.endpointHashKVCmd(&all))
	cmd.PersistentFlags().BoolVar(&all, "cluster", false, "use all endpoints from the cluster member list")
	return cmd
}

func (a *app) endpointHealthCmd(all *bool) *cobra.Command {
	return &cobra.Command{
		Use:   "health",
		Short: "Checks the healthiness of endpoints specified in `--endpoints` flag",
		Run:   a.run(func(cmd *cobra.Command, _ []string) error { return a.endpointHealth(cmd, all) }),
	}
}

// endpointHealth probes every endpoint at once, each with a client of its own, and
// shows them in the order in which they answer.
func (a *app) endpointHealth(cmd *cobra.Command, all *bool) error {
	if err := a.begin(cmd); err != nil {
		return err
	}
	cfg, err := a.config()
	if err != nil {
		return err
	}
	endpoints := cfg.Endpoints
	if *all {
		if endpoints, err = a.memberEndpoints(cfg); err != nil {
			return err
		}
	}
	results := make(chan printer.Health, len(endpoints))
	for _, ep := range endpoints {
		one := cfg
		one.Endpoints = []string{ep}
		go func() { results <- a.probe(one) }()
	}
	var found []printer.Health
	healthy := true
	for range endpoints {
		h := <-results
		healthy = healthy && h.Health
		found = append(found, h)
	}
	if err := a.showHealth(found); err != nil {
		return err
	}
	if !healthy {
		return fail(exitError, errors.New("unhealthy cluster"))
	}
	return nil
}

func (a *app) memberEndpoints(cfg clientv3.Config) ([]string, error) {
	c, err := a.open(cfg, "etcd-client")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := a.timeout()
	defer cancel()
	return a.clusterEndpoints(ctx, c, true)
}

func (a *app) showHealth(found []printer.Health) error {
	if !a.print.Simple() {
		return a.show(printer.EndpointHealth(found))
	}
	for _, h := range found {
		if h.Error == "" {
			a.printf("%s\n", h.Line())
		} else {
			a.errorf("%s\n", h.Line())
		}
	}
	return nil
}

// probe reads a key through consensus. To be refused it for want of permission is
// healthy too; an alarm is not.
func (a *app) probe(cfg clientv3.Config) printer.Health {
	h := printer.Health{Endpoint: cfg.Endpoints[0]}
	c, err := a.open(cfg, "client")
	if err != nil {
		h.Error = err.Error()
		return h
	}
	defer c.Close()
	ctx, cancel := a.timeout()
	defer cancel()
	start := time.Now()
	_, err = c.Get(ctx, "health")
	h.Took = time.Since(start).String()
	switch {
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		h.Health = true
	case err != nil:
		h.Error = err.Error()
	default:
		h.Error = alarms(ctx, c)
		h.Health = h.Error == ""
	}
	return h
}

func alarms(ctx context.Context, c *clientv3.Client) string {
	resp, err := c.AlarmList(ctx)
	switch {
	case err != nil:
		return "Unable to fetch the alarm list"
	case len(resp.Alarms) == 0:
		return ""
	}
	text := "Active Alarm(s): "
	for _, al := range resp.Alarms {
		text += al.Alarm.String() + " "
	}
	return text
}

func (a *app) endpointStatusCmd(all *bool) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Prints out the status of endpoints specified in `--endpoints` flag",
		Long: "When --write-out is set to simple, this command prints out comma-separated status lists for each endpoint.\n" +
			"The items in the lists are endpoint, ID, version, db size, is leader, is learner, raft term, raft index, raft applied index, errors.",
		Run: a.run(func(cmd *cobra.Command, _ []string) error { return a.endpointStatus(cmd, all) }),
	}
}

// endpointStatus asks the endpoints in turn and shows those that answer.
func (a *app) endpointStatus(cmd *cobra.Command, all *bool) error {
	c, endpoints, err := a.dialEndpoints(cmd, all)
	if err != nil {
		return err
	}
	defer c.Close()
	var found []printer.Status
	var failed error
	for _, ep := range endpoints {
		ctx, cancel := a.timeout()
		resp, err := c.Status(ctx, ep)
		cancel()
		if err != nil {
			a.errorf("Failed to get the status of endpoint %s (%v)\n", ep, err)
			failed = reported(exitError)
			continue
		}
		found = append(found, printer.Status{Endpoint: ep, Status: resp})
	}
	if err := a.show(printer.EndpointStatus(found)); err != nil {
		return err
	}
	return failed
}

func (a *app) endpointHashKVCmd(all *bool) *cobra.Command {
	var rev int64
	cmd := &cobra.Command{
		Use:   "hashkv",
		Short: "Prints the KV history hash for each endpoint in --endpoints",
		Run:   a.run(func(cmd *cobra.Command, _ []string) error { return a.endpointHashKV(cmd, all, rev) }),
	}
	cmd.PersistentFlags().Int64Var(&rev, "rev", 0, "maximum revision to hash (default: latest revision)")
	return cmd
}

func (a *app) endpointHashKV(cmd *cobra.Command, all *bool, rev int64) error {
	c, endpoints, err := a.dialEndpoints(cmd, all)
	if err != nil {
		return err
	}
	defer c.Close()
	var found []printer.KeyHash
	var failed error
	for _, ep := range endpoints {
		ctx, cancel := a.timeout()
		resp, err := c.HashKV(ctx, ep, rev)
		cancel()
		if err != nil {
			a.errorf("Failed to get the hash of endpoint %s (%v)\n", ep, err)
			failed = err
			continue
		}
		found = append(found, printer.KeyHash{Endpoint: ep, HashKV: resp})
	}
	if err := a.show(printer.EndpointHashKV(found)); err != nil {
		return err
	}
	return failed
}

// dialEndpoints connects and returns the endpoints that a command is for. all is the
// flag --cluster, which the environment may set meanwhile.
func (a *app) dialEndpoints(cmd *cobra.Command, all *bool) (*clientv3.Client, []string, error) {
	c, err := a.dial(cmd)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := a.timeout()
	defer cancel()
	endpoints, err := a.clusterEndpoints(ctx, c, *all)
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, endpoints, nil
}
