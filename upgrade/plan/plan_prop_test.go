package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"theseus/version"
)

// someFacts makes facts of any shape: sizes, roles, versions, and what ails members.
func someFacts(r *rand.Rand) Facts {
	programs := []string{"etcd-3.2.32", "etcd-3.3.27", "etcd-3.4.45", "etcd-3.5.35", "etcd-3.6.16", "etcd-3.7.3", "theseus-0.1.0", "theseus-0.2.0"}
	f := Facts{Cluster: "c", Taken: taken, Backup: Archive{URL: "dir:/b"}, Scratch: r.IntN(4) == 0, Target: program(programs[r.IntN(len(programs))])}
	for _, p := range programs[1:6] {
		if r.IntN(5) > 0 {
			f.Hops = append(f.Hops, program(p))
		}
	}
	base := r.IntN(len(programs))
	n := 1 + r.IntN(7)
	leader := r.IntN(n)
	var peers []Peer
	for i := range n {
		now := programs[base]
		if r.IntN(3) == 0 {
			now = programs[min(base+1, len(programs)-1)]
		}
		w := []string{fmt.Sprintf("s%d", i+1), now}
		if i == leader {
			w = append(w, "leader")
		} else if r.IntN(8) == 0 {
			w = append(w, "learner")
		}
		for _, o := range []string{"dead", "hung", "unwell", "lag=9000", "hosterr"} {
			if r.IntN(14) == 0 {
				w = append(w, o)
			}
		}
		m, p, err := member(w, uint64(i+1))
		if err != nil {
			panic(err)
		}
		m.Running = r.IntN(5) > 0
		if m.Cluster = program(programs[base]).Version.Trunc(); m.Err == "connection refused" {
			m.Cluster = version.Version{}
		}
		f.Members, peers = append(f.Members, m), append(peers, p)
	}
	finish(&f, peers)
	return f
}

// TestPlansAreSafe holds plans for random facts to the rules, with a model of its own.
func TestPlansAreSafe(t *testing.T) {
	plans := 0
	for seed := range uint64(1_500) {
		f := someFacts(rand.New(rand.NewPCG(seed, 1)))
		p, remarks := Make(f)
		if Blocked(remarks) != (len(p.Steps) == 0 && !slices.ContainsFunc(remarks, func(r Remark) bool { return r.Code == "THERE" })) {
			t.Fatalf("seed %d: %d steps beside %v", seed, len(p.Steps), remarks)
		}
		if len(p.Steps) > 0 {
			plans++
		}
		if err := safe(f, p); err != nil {
			t.Fatalf("seed %d: %v\n%s%s", seed, err, planText(p), remarkText(remarks))
		}
	}
	if plans < 150 {
		t.Errorf("only %d plans", plans)
	}
}

// safe walks a plan and checks every rule at every step.
func safe(f Facts, p Plan) error {
	well, voter, old := map[string]bool{}, map[string]bool{}, map[string]bool{}
	voters, leader := 0, ""
	for _, m := range f.Members {
		well[m.Name] = m.Err == "" && m.Healthy && f.Lag(m) <= lagLimit && m.Leader != 0
		for _, q := range see(f).peers {
			if q.Name == m.Name && !q.Learner {
				voter[m.Name] = true
				voters++
			}
		}
		if m.ID != 0 && m.ID == m.Leader {
			leader = m.Name
		}
		old[m.Name] = m.Theseus == "" && m.Err == "" && m.Server.Less(version.V3_3)
	}
	down, next, touched, points := "", "", false, 0
	for i, s := range p.Steps {
		if down != "" && s.Member != down {
			return fmt.Errorf("step %s while %s is down", s.ID, down)
		}
		if next != "" && string(s.Kind) != next {
			return fmt.Errorf("step %s where %s has to follow", s.ID, next)
		}
		next = ""
		switch s.Kind {
		case Stage:
			if touched {
				return fmt.Errorf("step %s comes after something was touched", s.ID)
			}
		case Backup:
			if touched || f.Scratch {
				return fmt.Errorf("step %s is out of place", s.ID)
			}
		case MoveLeader:
			if s.Member != leader || !well[s.To] || !voter[s.To] {
				return fmt.Errorf("step %s: leader is %s", s.ID, leader)
			}
			leader = s.To
		case Stop:
			others := 0
			for _, m := range f.Members {
				if m.Name != s.Member && well[m.Name] && voter[m.Name] {
					others++
				}
			}
			if voter[s.Member] && voters > 1 && others < voters/2+1 {
				return fmt.Errorf("step %s leaves %d of %d voters", s.ID, others, voters)
			}
			if leader == s.Member && voters > 1 && !old[s.Member] {
				return fmt.Errorf("step %s stops the leader", s.ID)
			}
			down, next, touched, well[s.Member] = s.Member, "swap", true, false
		case Swap:
			if s.Before == nil || s.Target == nil {
				return fmt.Errorf("step %s does not say what is swapped", s.ID)
			}
			down, next, touched = s.Member, "start", true
		case Start:
			down, next = s.Member, "ready"
		case Ready:
			down, well[s.Member], old[s.Member] = "", true, old[s.Member] && !s.Target.Theseus && s.Target.Version.Less(version.V3_3)
		case Lower:
			touched = true
			for _, m := range f.Members {
				if m.Err != "" {
					return fmt.Errorf("step %s with %s dead", s.ID, m.Name)
				}
			}
		}
		if s.Point {
			points++
		}
		if !f.Scratch && touched && !slices.ContainsFunc(p.Steps[:i], func(x Step) bool { return x.Kind == Backup }) {
			return fmt.Errorf("step %s comes before the backup", s.ID)
		}
	}
	if down != "" || points > 1 {
		return fmt.Errorf("%s is left down, %d points", down, points)
	}
	return nil
}

// TestMixedHostsGetTheirOwnProgram: where the target is a binary and an image, each
// member gets the one that it can run.
func TestMixedHostsGetTheirOwnProgram(t *testing.T) {
	f, err := situation("target theseus-0.1.0 repo/theseus:1\ns1 etcd-3.4.45 leader\ns2 etcd-3.4.45 image=repo/etcd:1\ns3 etcd-3.4.45")
	if err != nil {
		t.Fatal(err)
	}
	p, _ := Make(f)
	for _, s := range p.Steps {
		if s.Target == nil {
			continue
		}
		if image := s.Member == "s2"; (s.Target.Image != "") != image || (s.Target.Binary != "") == image {
			t.Errorf("step %s: %+v", s.ID, s.Target)
		}
	}
}
