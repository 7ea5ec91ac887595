package ctl

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// residentMemory is the metric of a server's memory, in bytes.
const residentMemory = "process_resident_memory_bytes"

// metricsTimeout bounds one read of a server's metrics.
const metricsTimeout = 5 * time.Second

// scaleLoads are the workloads: keys to write, and clients that write them.
var scaleLoads = map[string]struct{ keys, clients int }{
	"s": {10_000, 50}, "m": {100_000, 200}, "l": {1_000_000, 500}, "xl": {3_000_000, 1000},
}

func (a *app) checkDatascaleCmd() *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "datascale [options]",
		Short: "Check the memory usage of holding data for different workloads on a given server endpoint.",
		Long:  "If no endpoint is provided, localhost will be used. If multiple endpoints are provided, first endpoint will be used.",
		Run:   a.run(func(cmd *cobra.Command, _ []string) error { return a.checkDatascale(cmd, &f) }),
	}
	fs := cmd.Flags()
	fs.StringVar(&f.load, "load", "s", "The datascale check's workload model. Accepted workloads: s(small), m(medium), l(large), xl(xLarge)")
	fs.StringVar(&f.prefix, "prefix", "/etcdctl-check-datascale/", "The prefix for writing the datascale check's keys.")
	fs.BoolVar(&f.compact, "auto-compact", false, "Compact storage with last revision after test is finished.")
	fs.BoolVar(&f.defrag, "auto-defrag", false, "Defragment storage after test is finished.")
	return cmd
}

func (a *app) checkDatascale(cmd *cobra.Command, f *checkFlags) error {
	load, ok := scaleLoads[loadName(f.load)]
	if !ok {
		return badOption("unknown load option %v", f.load)
	}
	if err := a.begin(cmd); err != nil {
		return err
	}
	cfg, err := a.config()
	if err != nil {
		return err
	}
	clients, closeAll, err := a.checkClients(load.clients)
	defer closeAll()
	if err != nil {
		return err
	}
	if err := a.refuseKeys(clients[0], f.prefix, "prefix %q has keys. Delete with etcdctl del --prefix %s first"); err != nil {
		return err
	}
	before, err := serverMemory(cfg)
	if err != nil {
		return err
	}
	a.printf("Start data scale check for work load [%d key-value pairs, %d bytes per key-value, %d concurrent clients].\n",
		load.keys, checkValueBytes, load.clients)
	bar := a.progressOf("writing", int64(load.keys), false)
	w := &workload{clients: clients, prefix: f.prefix, next: counted(int64(load.keys)), bar: bar}
	r := w.run(context.Background())
	bar.stop()
	after, memErr := serverMemory(cfg)
	if err := a.cleanUp(clients[0], f); err != nil {
		return err
	}
	if memErr != nil {
		return memErr
	}
	if !a.showErrors(r) {
		return reported(exitError)
	}
	a.printf("PASS: Approximate system memory used : %.2f MB.\n", max(after-before, 0)/(1<<20))
	return nil
}

// counted hands out total turns, as fast as they are taken.
func counted(total int64) func() bool {
	var given atomic.Int64
	return func() bool { return given.Add(1) <= total }
}

// serverMemory reads the resident memory of the first endpoint from its metrics.
func serverMemory(cfg clientv3.Config) (float64, error) {
	if len(cfg.Endpoints) == 0 {
		return 0, fail(exitConnection, errors.New("etcdclient: no available endpoints"))
	}
	url := metricsURL(cfg.Endpoints[0], cfg.TLS)
	client := &http.Client{Timeout: metricsTimeout, Transport: &http.Transport{TLSClientConfig: cfg.TLS}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(url)
	if err != nil {
		return 0, fmt.Errorf("read the metrics of the server: %w", err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), residentMemory+" "); ok {
			return strconv.ParseFloat(text, 64)
		}
	}
	return 0, fmt.Errorf("read the metrics of the server: %s has no %s", url, residentMemory)
}

func metricsURL(endpoint string, secure *tls.Config) string {
	switch {
	case strings.Contains(endpoint, "://"):
	case secure != nil:
		endpoint = "https://" + endpoint
	default:
		endpoint = "http://" + endpoint
	}
	return endpoint + "/metrics"
}
