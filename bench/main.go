package bench

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Main runs the benchmark and prints its table as Markdown; it returns the exit
// status.
func Main(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if err != nil {
		return 2
	}
	r := &run{o: o, stderr: stderr, results: map[string]map[string][]sample{}}
	if err := r.all(); err != nil {
		_, _ = fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
	r.print(stdout)
	return 0
}

type options struct {
	peers   string
	self    string
	against []string
	rounds  int
	length  time.Duration
	only    *regexp.Regexp
	keys    int
}

const usage = `Usage: theseus bench [flags]

Measures this Theseus beside real etcd on this machine, in one run, in turn,
and prints a table of medians and ratios. Loopback only; it stops by itself.

Flags:
`

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	var against, only string
	set := flag.NewFlagSet("bench", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.Usage = func() { _, _ = fmt.Fprint(stderr, usage); set.PrintDefaults() }
	set.StringVar(&o.peers, "peers", "build/peers", "folder of real etcd builds, made by `make peers`")
	set.StringVar(&o.self, "theseus", "", "the Theseus to measure (default: this program)")
	set.StringVar(&against, "against", "3.5,3.7", "etcd versions to measure beside it")
	set.IntVar(&o.rounds, "rounds", 3, "rounds; the table shows medians")
	set.DurationVar(&o.length, "length", 3*time.Second, "how long one measurement loads a server")
	set.StringVar(&only, "only", "", "rows to run, as a regular expression on their names")
	set.IntVar(&o.keys, "keys", 1_000_000, "keys in the store that is restarted")
	if err := set.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.only, err = regexp.Compile(only); err != nil {
		_, _ = fmt.Fprintf(stderr, "bench: --only: %v\n", err)
		return o, err
	}
	if o.self == "" {
		o.self, err = os.Executable()
	}
	o.against = strings.Split(against, ",")
	return o, err
}

type run struct {
	o       options
	stderr  io.Writer
	results map[string]map[string][]sample // by row, by target
	order   []string
}

func (r *run) targets() ([]Target, error) {
	all := []Target{{Name: "theseus", Path: r.o.self, Args: []string{"serve"}}}
	for _, v := range r.o.against {
		path := filepath.Join(r.o.peers, v, "etcd")
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("real etcd %s: %w: run `make peers` first", v, err)
		}
		all = append(all, Target{Name: "etcd " + v, Path: path})
	}
	return all, nil
}

func (r *run) all() error {
	targets, err := r.targets()
	if err != nil {
		return err
	}
	if _, err := exec.LookPath("h2load"); err != nil {
		return fmt.Errorf("h2load is not installed: apt-get install nghttp2-client")
	}
	for round := range r.o.rounds {
		for _, t := range targets {
			for _, size := range []int{1, 3} {
				if err := r.loadRows(t, size, round); err != nil {
					return fmt.Errorf("%s: %w", t.Name, err)
				}
			}
			if err := r.lifecycle(t, round); err != nil {
				return fmt.Errorf("%s: %w", t.Name, err)
			}
		}
	}
	return nil
}

func (r *run) loadRows(t Target, size, round int) error {
	var todo []row
	for _, w := range rows {
		if w.members == size && r.o.only.MatchString(w.name) {
			todo = append(todo, w)
		}
	}
	if len(todo) == 0 {
		return nil
	}
	c, err := newCluster(t, size)
	if err != nil {
		return err
	}
	defer c.remove()
	if _, err := c.start(); err != nil {
		return err
	}
	for _, w := range todo {
		_, _ = fmt.Fprintf(r.stderr, "round %d: %s: %s\n", round+1, t.Name, w.name)
		s, err := w.run(c, r.o.length)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		r.add(w.name, t.Name, s)
	}
	return nil
}

func (r *run) lifecycle(t Target, round int) error {
	for _, w := range lifecycleRows {
		name := w.name
		if strings.Contains(name, "%d") {
			name = fmt.Sprintf(name, r.o.keys)
		}
		if !r.o.only.MatchString(name) {
			continue
		}
		_, _ = fmt.Fprintf(r.stderr, "round %d: %s: %s\n", round+1, t.Name, name)
		s, err := w.run(t, r.o.keys)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		r.add(name, t.Name, s)
	}
	return nil
}

func (r *run) add(rowName, target string, s sample) {
	if r.results[rowName] == nil {
		r.results[rowName] = map[string][]sample{}
		r.order = append(r.order, rowName)
	}
	r.results[rowName][target] = append(r.results[rowName][target], s)
}

// median of one figure over the rounds.
func median[T int64 | float64 | time.Duration](all []sample, of func(sample) T) T {
	var v []T
	for _, s := range all {
		v = append(v, of(s))
	}
	slices.Sort(v)
	if len(v) == 0 {
		return 0
	}
	return v[len(v)/2]
}

// figure is one kind of number in the table.
type figure struct {
	unit        string
	of          func(sample) float64
	lowerBetter bool
	format      string
}

var figures = []figure{
	{"/s", func(s sample) float64 { return s.perSecond }, false, "%.0f"},
	{"p50 ms", func(s sample) float64 { return s.p50.Seconds() * 1e3 }, true, "%.2f"},
	{"p99 ms", func(s sample) float64 { return s.p99.Seconds() * 1e3 }, true, "%.2f"},
	{"CPU µs", func(s sample) float64 { return s.cpu.Seconds() * 1e6 }, true, "%.1f"},
	{"ms", func(s sample) float64 { return s.took.Seconds() * 1e3 }, true, "%.0f"},
	{"MiB", func(s sample) float64 { return s.mib }, true, "%.0f"},
}

// print writes a Markdown table: a line a row and figure, the best real etcd
// beside ours, and the ratio, which is above 1 where Theseus is better.
func (r *run) print(w io.Writer) {
	_, _ = fmt.Fprintf(w, "%s, %d CPUs, %d rounds of %s, medians. The ratio is against the better etcd; above 1 Theseus is better.\n\n", runtime.GOOS+"/"+runtime.GOARCH, runtime.NumCPU(), r.o.rounds, r.o.length)
	tw := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	head, line := "| row\t| unit\t| theseus", "|---\t|---\t|---"
	for _, v := range r.o.against {
		head, line = head+"\t| etcd "+v, line+"\t|---"
	}
	_, _ = fmt.Fprintf(tw, "%s\t| ratio\t|\n%s\t|---\t|\n", head, line)
	for _, name := range r.order {
		for _, f := range figures {
			r.printLine(tw, name, f)
		}
	}
	_ = tw.Flush()
}

func (r *run) printLine(w io.Writer, name string, f figure) {
	ours := median(r.results[name]["theseus"], f.of)
	if ours == 0 {
		return
	}
	line, best := fmt.Sprintf("| %s\t| %s\t| "+f.format, name, f.unit, ours), 0.0
	for _, v := range r.o.against {
		m := median(r.results[name]["etcd "+v], f.of)
		line += fmt.Sprintf("\t| "+f.format, m)
		if best == 0 || f.lowerBetter == (m < best) {
			best = m
		}
	}
	ratio := ours / best
	if f.lowerBetter {
		ratio = best / ours
	}
	_, _ = fmt.Fprintf(w, "%s\t| %.2f\t|\n", line, ratio)
}
