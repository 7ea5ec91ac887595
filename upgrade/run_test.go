package upgrade

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"theseus/internal/vfs"
	"theseus/upgrade/plan"
)

// killed is the panic that stands for kill -9.
type killed struct{ at string }

// fakeRun is one try on a fake cluster and a disk that can lose its power.
type fakeRun struct {
	f    *fakeCluster
	disk *vfs.Crash
	plan plan.Plan
	back bool   // roll back
	who  string // only this member
	out  bytes.Buffer
}

func (x *fakeRun) options() RunOptions {
	return RunOptions{Inventory: x.f.inventory(), Hosts: x.f.hosts(), Plan: x.plan, Dir: "/state", FS: x.disk, Yes: true, Out: &x.out, File: "up.yaml",
		Backup: func(context.Context) (string, error) { return "b1", nil }, wire: x.f}
}

// once runs until the end, or until the point with this number; -1 is never. It returns
// how many points were passed.
func (x *fakeRun) once(ctx context.Context, kill int) (points int, died bool, err error) {
	o := x.options()
	o.hook = func(what string) {
		if points++; points-1 == kill {
			panic(killed{what})
		}
	}
	x.f.hook = o.hook
	defer func() {
		x.f.hook = nil
		if k, ok := recover().(killed); ok {
			died, err = true, fmt.Errorf("killed at %s", k.at)
		}
	}()
	if x.back {
		_, err = Rollback(ctx, o, x.who)
	} else {
		_, err = Run(ctx, o)
	}
	return points, false, err
}

// TestRun_killedAnywhere kills the tool at every record of the journal and after every
// call of an executor, takes the power away, and runs it again: it always ends as the
// run that nobody disturbed, and no second voter is ever down.
func TestRun_killedAnywhere(t *testing.T) {
	for _, c := range []struct {
		name, from, to string
		hops           []string
		size           int
		dead           string
		stride         int // of the points
	}{
		{name: "3.4 to Theseus", from: "/etcd-3.4", to: "/theseus", size: 3},
		{name: "five with a dead one", from: "/etcd-3.4", to: "/theseus", size: 5, dead: "m4", stride: 3},
		{name: "Theseus to 3.6", from: "/theseus", to: "/etcd-3.6", size: 3, stride: 2},
		{name: "3.4 to 3.6 by 3.5", from: "/etcd-3.4", to: "/etcd-3.6", hops: []string{"/etcd-3.5"}, size: 3, stride: 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			fresh := func() *fakeRun {
				f := newFake(c.size, c.from)
				if c.dead != "" {
					f.member(c.dead).running, f.broken[c.dead] = false, true
				}
				f.settle()
				return &fakeRun{f: f, disk: vfs.NewCrash(1), plan: f.plan(t, c.to, c.hops...)}
			}
			synctest.Test(t, func(t *testing.T) {
				x := fresh()
				points, _, err := x.once(t.Context(), -1)
				if err != nil {
					t.Fatal(err)
				}
				x.f.check(t)
				if !x.f.all(c.to) {
					t.Fatalf("not all run %s", c.to)
				}
				for kill := 0; kill < points; kill += cmp.Or(c.stride, 1) {
					x := fresh()
					for n := 0; ; n++ { // killed, and once more two points after it went on
						at := -1
						if n < 2 {
							at = kill * (1 - n)
							at += 2 * n
						}
						_, died, err := x.once(t.Context(), at)
						if !died {
							if err != nil {
								t.Fatalf("point %d: %v\n%s", kill, err, x.out.String())
							}
							break
						}
						x.disk = x.disk.Crash()
					}
					x.f.check(t)
					if !x.f.all(c.to) || t.Failed() {
						t.Fatalf("point %d: not all run %s", kill, c.to)
					}
				}
				t.Logf("%d points", points)
			})
		})
	}
}

// TestRun_announcesMove: the members that are Theseus already are told before a real
// leader hands over, and nobody else is.
func TestRun_announcesMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(3, "/etcd-3.4")
		x := &fakeRun{f: f, disk: vfs.NewCrash(1), plan: f.plan(t, "/theseus")}
		if _, _, err := x.once(t.Context(), -1); err != nil {
			t.Fatal(err)
		}
		slices.Sort(f.announced)
		if got := slices.Compact(f.announced); !slices.Equal(got, []string{"m2", "m3"}) { // m1 leads, and goes last
			t.Errorf("told ahead: %v", got)
		}
	})
}

// TestRollback_killedAnywhere does the same on the way back, from every point of the way
// forward.
func TestRollback_killedAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fresh := func() *fakeRun {
			f := newFake(3, "/etcd-3.4")
			return &fakeRun{f: f, disk: vfs.NewCrash(1), plan: f.plan(t, "/theseus")}
		}
		x := fresh()
		points, _, err := x.once(t.Context(), -1)
		if err != nil {
			t.Fatal(err)
		}
		for kill := 4; kill <= points; kill += 3 {
			for again := range 12 {
				x := fresh()
				if _, died, err := x.once(t.Context(), kill); !died && err != nil {
					t.Fatal(err)
				}
				x.disk, x.back = x.disk.Crash(), true
				for n := 0; ; n++ {
					at := 3 * again
					if n > 0 {
						at = -1
					}
					_, died, err := x.once(t.Context(), at)
					if !died {
						if err != nil {
							t.Fatalf("forward %d, back %d: %v\n%s", kill, 3*again, err, x.out.String())
						}
						break
					}
					x.disk = x.disk.Crash()
				}
				x.f.check(t)
				if !x.f.all("/etcd-3.4") || t.Failed() {
					t.Fatalf("forward %d, back %d: not all run the old program\n%s", kill, 3*again, x.out.String())
				}
			}
		}
	})
}

// TestRollback_oneMember takes one member back and forth in the middle and at the end.
func TestRollback_oneMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(3, "/etcd-3.4")
		x := &fakeRun{f: f, disk: vfs.NewCrash(1), plan: f.plan(t, "/theseus")}
		if _, _, err := x.once(t.Context(), -1); err != nil {
			t.Fatal(err)
		}
		x.back, x.who = true, "m2"
		if _, _, err := x.once(t.Context(), -1); err != nil {
			t.Fatal(err)
		}
		if f.member("m2").program != "/etcd-3.4" || f.member("m1").program != "/theseus" || f.cluster.Minor != 4 {
			t.Fatalf("m2 runs %s, the cluster is at %s", f.member("m2").program, f.cluster)
		}
		x.back = false
		if _, _, err := x.once(t.Context(), -1); err != nil {
			t.Fatal(err)
		}
		if f.check(t); !f.all("/theseus") || f.cluster.Minor != 7 {
			t.Fatalf("not forward again: %+v at %s", f.member("m2"), f.cluster)
		}
	})
}

// TestRun_faults breaks a step in each way, and looks at what is left and what is said.
func TestRun_faults(t *testing.T) {
	for _, c := range []struct {
		name, to string
		set      func(f *fakeCluster)
		at       string // of what is passed when set is called; default: the begin
		step     string // that fails
		seen     string // in what is said
		undid    bool
	}{
		{name: "crash at start", to: "/crashes", step: "-ready", seen: "ended right after its start", undid: true},
		{name: "never healthy", to: "/sick", step: "-ready", seen: "m2 sees no leader", undid: true},
		{name: "wrong program", to: "/lies", step: "-ready", seen: "runs the wrong program", undid: true},
		{name: "stuck stop", to: "/theseus", set: func(f *fakeCluster) { f.member("m2").stuck = true }, step: "-stop", seen: "it is never killed"},
		{name: "partition", to: "/theseus", set: func(f *fakeCluster) { f.member("m3").hidden = true }, step: "-gate", seen: "does not answer"},
		{name: "alarm", to: "/theseus", set: func(f *fakeCluster) { f.alarms = []plan.Alarm{{Member: 1, Name: "CORRUPT"}} }, step: "-gate", seen: "CORRUPT"},
		{name: "another member dies after the gate", to: "/theseus", set: func(f *fakeCluster) { f.member("m3").running, f.broken["m3"] = false, true }, at: "record done 05-m2-gate", step: "-stop", seen: "not stopped: 1 of 3 voters are well without m2"},
		{name: "the plan is of yesterday", to: "/theseus", set: func(f *fakeCluster) { f.member("m2").program = "/etcd-3.4w" }, step: "-gate", seen: "make a new plan"},
		{name: "hash", to: "/theseus", set: func(f *fakeCluster) { f.badHash = "m3" }, step: "-gate", seen: "has hash 42 and m3 43"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(3, "/etcd-3.4")
				x := &fakeRun{f: f, disk: vfs.NewCrash(1), plan: f.plan(t, c.to)}
				f.hook = nil
				o := x.options()
				o.hook = func(what string) {
					if c.set != nil && strings.HasPrefix(what, cmp.Or(c.at, "record begin")) {
						c.set(f)
					}
				}
				_, err := Run(t.Context(), o)
				var s *Stop
				if !errors.As(err, &s) {
					t.Fatalf("error %v", err)
				}
				if text := s.Message(); !strings.HasSuffix(s.Step, c.step) || !strings.Contains(text, c.seen) || !strings.Contains(text, "theseus upgrade apply -f up.yaml") {
					t.Errorf("step %s:\n%s", s.Step, text)
				}
				if (s.Undid != "" && !strings.Contains(s.Undid, "nothing")) != c.undid {
					t.Errorf("undone: %q", s.Undid)
				}
				f.check(t)
				if n := f.downVoters(); n > 0 {
					t.Errorf("%d voters are down\n%s", n, x.out.String())
				}
				for _, m := range f.members {
					if !strings.HasPrefix(m.program, "/etcd-3.4") {
						t.Errorf("%s runs %s", m.name, m.program)
					}
				}
			})
		})
	}
}

// TestRun_diskFull fills the tool's disk at every write: it stops before it acts, or it
// brings the member that is down back.
func TestRun_diskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for full := 1; ; full++ {
			f := newFake(3, "/etcd-3.4")
			x := &fakeRun{f: f, disk: vfs.NewCrash(1), plan: f.plan(t, "/theseus")}
			n := 0
			o := x.options()
			o.FS = vfs.NewFault(x.disk, func(op vfs.Op, _ string) error {
				if op != vfs.OpWrite && op != vfs.OpPreallocate {
					return nil
				}
				if n++; n >= full {
					return syscall.ENOSPC
				}
				return nil
			})
			_, err := Run(t.Context(), o)
			f.check(t)
			if f.downVoters() > 0 {
				t.Fatalf("write %d: a member was left down", full)
			}
			if err == nil {
				break
			}
			if _, _, err := x.once(t.Context(), -1); err != nil || !f.all("/theseus") {
				t.Fatalf("write %d: not done after there was room: %v\n%s", full, err, x.out.String())
			}
		}
	})
}

// TestRun_interrupted ends the context in every step: no member is left down, and a
// second call goes on.
func TestRun_interrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for at := range 40 {
			f := newFake(3, "/etcd-3.4")
			x := &fakeRun{f: f, disk: vfs.NewCrash(1), plan: f.plan(t, "/theseus")}
			ctx, cancel := context.WithCancel(t.Context())
			n := 0
			o := x.options()
			o.hook = func(string) {
				if n++; n == at {
					cancel()
				}
			}
			f.hook = o.hook
			_, err := Run(ctx, o)
			cancel()
			if f.check(t); f.downVoters() > 0 {
				t.Fatalf("point %d: a member was left down: %v", at, err)
			}
			if _, _, err := x.once(t.Context(), -1); err != nil && !strings.Contains(err.Error(), "nothing") || !f.all("/theseus") {
				t.Fatalf("point %d: %v", at, err)
			}
		}
	})
}

// TestUndo_killedAnywhere has a target that crashes, and kills the tool at every point
// of finding that out and undoing it.
func TestUndo_killedAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for kill := 0; ; kill++ {
			f := newFake(3, "/etcd-3.4")
			x := &fakeRun{f: f, disk: vfs.NewCrash(1), plan: f.plan(t, "/crashes")}
			_, died, err := x.once(t.Context(), kill)
			over := !died
			for died {
				x.disk = x.disk.Crash()
				_, died, err = x.once(t.Context(), -1)
			}
			var s *Stop
			if !errors.As(err, &s) || !strings.Contains(s.Undid, "m2 runs what it ran before") {
				t.Fatalf("point %d: %v\n%s", kill, err, x.out.String())
			}
			if f.check(t); !f.all("/etcd-3.4") || t.Failed() {
				t.Fatalf("point %d: not all run the old program", kill)
			}
			if over {
				return
			}
		}
	})
}

// TestRollback_lastMemberSick has a target that gets sick on the last member, when the
// cluster version has risen: undoing is refused with the reason, and the rollback lowers
// the version first.
func TestRollback_lastMemberSick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(3, "/etcd-3.4")
		x := &fakeRun{f: f, disk: vfs.NewCrash(1), plan: f.plan(t, "/theseus")}
		o := x.options()
		o.hook = func(what string) {
			if strings.HasPrefix(what, "record done") && strings.HasSuffix(what, "m1-start") {
				f.programs["/broken"] = behaviour{version: f.programs["/theseus"].version, theseus: true, sick: true}
				f.member("m1").program = "/broken"
				f.settle()
			}
		}
		_, err := Run(t.Context(), o)
		var s *Stop
		if !errors.As(err, &s) || !strings.Contains(s.Undid, "it must be lowered first") || !strings.Contains(s.Next, "rollback") {
			t.Fatalf("%v\n%s", err, x.out.String())
		}
		x.back = true
		if _, _, err := x.once(t.Context(), -1); err != nil {
			t.Fatalf("%v\n%s", err, x.out.String())
		}
		if f.check(t); !f.all("/etcd-3.4") || f.cluster.Minor != 4 {
			t.Fatalf("at %s\n%s", f.cluster, x.out.String())
		}
	})
}

// TestRollback_onlyRestore says so, and does nothing, where no member can lower the
// cluster version: real 3.5.
func TestRollback_onlyRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(3, "/etcd-3.4")
		x := &fakeRun{f: f, disk: vfs.NewCrash(1), plan: f.plan(t, "/etcd-3.5")}
		if _, _, err := x.once(t.Context(), -1); err != nil {
			t.Fatal(err)
		}
		x.back = true
		_, _, err := x.once(t.Context(), -1)
		var s *Stop
		if !errors.As(err, &s) || !s.Block || !strings.Contains(s.What, "cannot lower it online") || !strings.Contains(s.Next, "snapshot restore /b/b1.db --name m2 --initial-cluster m1=http://m1:2380,m2=http://m2:2380,m3=http://m3:2380 ") {
			t.Fatalf("%v", err)
		}
		if f.check(t); !f.all("/etcd-3.5") {
			t.Error("something was done")
		}
		text, err := vfs.ReadFile(x.disk, "/state/summary.json")
		if err != nil || !strings.Contains(string(text), `"result": "done"`) {
			t.Errorf("the summary of the run that was done: %v %s", err, text)
		}
	})
}

// TestRun_sizes moves clusters of one to seven, with a learner.
func TestRun_sizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for size := 1; size <= 7; size++ {
			for _, learner := range []bool{false, true} {
				if voters := size - map[bool]int{true: 1}[learner]; voters == 2 || voters == 0 {
					continue // check blocks two voters
				}
				f := newFake(size, "/etcd-3.4")
				if learner {
					f.members[size-1].learner = true
				}
				x := &fakeRun{f: f, disk: vfs.NewCrash(1), plan: f.plan(t, "/theseus")}
				if _, _, err := x.once(t.Context(), -1); err != nil || !f.all("/theseus") {
					t.Fatalf("size %d: %v\n%s", size, err, x.out.String())
				}
				f.check(t)
			}
		}
	})
}

// TestRun_point asks before the step from which only the backup leads back.
func TestRun_point(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(3, "/etcd-3.4")
		x := &fakeRun{f: f, disk: vfs.NewCrash(1), plan: f.plan(t, "/etcd-3.5")}
		o := x.options()
		o.Yes = false
		_, err := Run(t.Context(), o)
		var s *Stop
		if !errors.As(err, &s) || !s.Block || !strings.Contains(s.What, "not agreed") || !strings.Contains(s.Next, "--yes") {
			t.Fatalf("%v", err)
		}
		asked := 0
		o.Ask = func(string) bool { asked++; return true }
		if _, err := Run(t.Context(), o); err != nil || asked != 1 || !f.all("/etcd-3.5") {
			t.Fatalf("asked %d times: %v", asked, err)
		}
		f.check(t)
	})
}
