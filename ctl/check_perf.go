package ctl

import (
	"context"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// perfTime is how long `check perf` writes.
const perfTime = 60 * time.Second

// What passes: nearly the rate asked for, no write slower than half a second, and
// latencies that lie close together.
const (
	perfRateShare    = 0.9
	perfMaxSlowest   = 0.5 // seconds
	perfMaxDeviation = 0.1 // seconds
)

// perfLoads are the workloads: writes a second, and clients that write them.
var perfLoads = map[string]struct{ rate, clients int }{
	"s": {150, 50}, "m": {1000, 200}, "l": {8000, 500}, "xl": {15000, 1000},
}

func (a *app) checkPerfCmd() *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "perf [options]",
		Short: "Check the performance of the etcd cluster",
		Run:   a.run(func(cmd *cobra.Command, _ []string) error { return a.checkPerf(cmd, &f) }),
	}
	fs := cmd.Flags()
	fs.StringVar(&f.load, "load", "s", "The performance check's workload model. Accepted workloads: s(small), m(medium), l(large), xl(xLarge). "+
		"Different workload models use different configurations in terms of number of clients and expected throughput.")
	fs.StringVar(&f.prefix, "prefix", "/etcdctl-check-perf/", "The prefix for writing the performance check's keys.")
	fs.BoolVar(&f.compact, "auto-compact", false, "Compact storage with last revision after test is finished.")
	fs.BoolVar(&f.defrag, "auto-defrag", false, "Defragment storage after test is finished.")
	complete(cmd, "load", "small", "medium", "large", "xLarge")
	return cmd
}

func (a *app) checkPerf(cmd *cobra.Command, f *checkFlags) error {
	load, ok := perfLoads[loadName(f.load)]
	if !ok {
		return badOption("unknown load option %v", f.load)
	}
	if err := a.begin(cmd); err != nil {
		return err
	}
	clients, closeAll, err := a.checkClients(load.clients)
	defer closeAll()
	if err != nil {
		return err
	}
	if err := a.refuseKeys(clients[0], f.prefix, "prefix %q has keys. Delete with 'etcdctl del --prefix %s' first"); err != nil {
		return err
	}
	total := load.rate * int(perfTime/time.Second)
	bar := a.progressOf("writing", int64(total), false)
	w := &workload{clients: clients, prefix: f.prefix, next: paced(load.rate, total), bar: bar}
	r := w.run(context.Background())
	bar.stop()
	if err := a.cleanUp(clients[0], f); err != nil {
		return err
	}
	return a.judgePerf(r, load.rate)
}

// paced hands out total turns at a steady rate, until the time is over. It may be
// called by many goroutines.
func paced(rate, total int) func() bool {
	var mu sync.Mutex
	start := time.Now()
	given := 0
	return func() bool {
		mu.Lock()
		if given == total || time.Since(start) > perfTime {
			mu.Unlock()
			return false
		}
		due := start.Add(time.Duration(given) * time.Second / time.Duration(rate))
		given++
		mu.Unlock()
		time.Sleep(time.Until(due))
		return true
	}
}

func (a *app) judgePerf(r *checkRun, rate int) error {
	ok := a.showErrors(r)
	if got := r.rate(); got < perfRateShare*float64(rate) {
		a.printf("FAIL: Throughput too low: %d writes/s\n", int(got))
		ok = false
	} else {
		a.printf("PASS: Throughput is %d writes/s\n", int(got))
	}
	slowest, deviation := r.spread()
	if slowest > perfMaxSlowest {
		a.printf("Slowest request took too long: %fs\n", slowest)
		ok = false
	} else {
		a.printf("PASS: Slowest request took %fs\n", slowest)
	}
	if deviation > perfMaxDeviation {
		a.printf("Stddev too high: %fs\n", deviation)
		ok = false
	} else {
		a.printf("PASS: Stddev is %fs\n", deviation)
	}
	if !ok {
		a.printf("FAIL\n")
		return reported(exitError)
	}
	a.printf("PASS\n")
	return nil
}
