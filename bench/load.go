package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

// sample is what one measurement gave. A zero field was not measured.
type sample struct {
	perSecond float64
	p50, p99  time.Duration
	cpu       time.Duration // server CPU a request, over all members
	took      time.Duration // rows that measure one duration
	mib       float64       // rows that measure memory
}

// closedLoop runs workers that call without pause for the time given. Each
// error ends the run: a benchmark in which requests fail measures nothing.
func closedLoop(c *cluster, workers, conns int, length time.Duration, call func(ctx context.Context, cli *clientv3.Client, worker, i int) error) (sample, error) {
	clis, closeAll, err := c.clients(conns)
	if err != nil {
		return sample{}, err
	}
	defer closeAll()
	ctx, cancel := context.WithTimeout(context.Background(), length+time.Minute)
	defer cancel()
	lat := make([][]time.Duration, workers)
	errs := make([]error, workers)
	before, begin := c.cpu(), time.Now()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := 0; time.Since(begin) < length; i++ {
				t := time.Now()
				if err := call(ctx, clis[w%conns], w, i); err != nil {
					errs[w] = err
					return
				}
				lat[w] = append(lat[w], time.Since(t))
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return sample{}, err
		}
	}
	return summarise(slices.Concat(lat...), time.Since(begin), c.cpu()-before), nil
}

func summarise(all []time.Duration, took, cpu time.Duration) sample {
	if len(all) == 0 {
		return sample{}
	}
	slices.Sort(all)
	return sample{
		perSecond: float64(len(all)) / took.Seconds(),
		p50:       all[len(all)/2], p99: all[len(all)*99/100],
		cpu: cpu / time.Duration(len(all)),
	}
}

var h2loadRate = regexp.MustCompile(`finished in ([0-9.]+)(m?s), ([0-9.]+) req/s`)
var h2loadDone = regexp.MustCompile(`requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded`)

// h2load posts one gRPC message over and over, from so many connections with so
// many streams each, to the first member.
func h2load(c *cluster, method string, m proto.Message, conns, streams, requests int) (sample, error) {
	body, err := proto.Marshal(m)
	if err != nil {
		return sample{}, err
	}
	frame := make([]byte, 5, 5+len(body))
	binary.BigEndian.PutUint32(frame[1:], uint32(len(body)))
	file := filepath.Join(c.dir, "frame")
	if err := os.WriteFile(file, append(frame, body...), 0o600); err != nil {
		return sample{}, err
	}
	before := c.cpu()
	out, err := exec.Command("h2load", "-c", strconv.Itoa(conns), "-m", strconv.Itoa(streams), "-t", "1", "-n", strconv.Itoa(requests), "-d", file,
		"-H", "content-type: application/grpc", "-H", "te: trailers", c.members[0].clientURL()+method).CombinedOutput()
	if err != nil {
		return sample{}, fmt.Errorf("h2load: %w: %s", err, tail(string(out), 300))
	}
	rate, done := h2loadRate.FindSubmatch(out), h2loadDone.FindSubmatch(out)
	if rate == nil || done == nil || string(done[1]) != string(done[3]) {
		return sample{}, fmt.Errorf("h2load: not all requests succeeded: %s", tail(string(out), 600))
	}
	perSecond, _ := strconv.ParseFloat(string(rate[3]), 64)
	return sample{perSecond: perSecond, cpu: (c.cpu() - before) / time.Duration(requests)}, nil
}
