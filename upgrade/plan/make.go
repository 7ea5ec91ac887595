package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"theseus/version"
)

// Make turns facts into the plan that leads to the target, and says what stands in the
// way of one. With a remark that blocks there are no steps. Without steps and without
// such a remark the cluster is there already. Check asks much more, and has these
// remarks among its own.
func Make(f Facts) (Plan, []Remark) {
	p := Plan{Format: 1, Cluster: f.Cluster, From: f.from(), To: f.Target.String(), Steps: []Step{}}
	r := &remarks{}
	c := see(f)
	r.knowable(f, c)
	route := r.route(f, c)
	r.margin(f, c, route)
	r.membership(f, c)
	r.leaders(f, c)
	if Blocked(r.all) {
		return p, r.sorted(f)
	}
	m := maker{f: f, c: c, plan: &p}
	if m.run(route); m.short != "" {
		p.Steps = []Step{}
		r.add("NO-QUORUM", m.short, "the others do not hold quorum without it: some of them are not well, and the plan does not touch those", "mend those that are not well first")
		return p, r.sorted(f)
	}
	r.there(p, f)
	return p, r.sorted(f)
}

// String names the target for people.
func (t Target) String() string {
	switch {
	case t.Theseus && t.Product != "":
		return "Theseus " + t.Product
	case t.Theseus:
		return "Theseus"
	case t.Version.IsZero():
		return "nothing"
	}
	return "etcd " + t.Version.String()
}

// of is the target as one member can run it: where both a binary and an image are
// named, what runs there now tells which.
func (t Target) of(m Member) Target {
	if t.Binary != "" && t.Image != "" {
		if m.Image != "" {
			t.Binary = ""
		} else {
			t.Image = ""
		}
	}
	return t
}

// program is the path or the image.
func (t Target) program() string { return cmp.Or(t.Image, t.Binary) }

// Runs names what a member runs, for people.
func (m Member) Runs() string {
	switch {
	case m.Theseus != "":
		return "Theseus " + m.Theseus
	case m.Server.IsZero():
		return "nothing that answers"
	}
	return "etcd " + m.Server.String()
}

// from names all that runs now, the lowest first.
func (f Facts) from() string {
	var names []string
	for _, m := range f.Members {
		if m.Err == "" && !slices.Contains(names, m.Runs()) {
			names = append(names, m.Runs())
		}
	}
	slices.Sort(names)
	return cmp.Or(strings.Join(names, " and "), "nothing that answers")
}

// leg is one pass over the members: to one program, and then to one cluster version.
type leg struct {
	target Target
	lower  version.Version // the cluster version is lowered to this first; zero: it is not
	await  version.Version // what the cluster version is to be at the end
	last   bool            // the target itself, so that a member must run just this
	down   bool
}

// there tells whether a member need not be touched in this leg.
func (l leg) there(m Member) bool {
	switch {
	case m.Err != "":
		return false
	case l.last && l.target.Theseus:
		return m.Theseus != "" && (l.target.Product == "" || m.Theseus == l.target.Product)
	case l.last:
		return m.Theseus == "" && m.Server == l.target.Version
	case m.Theseus != "":
		return true // it goes along with any version on the way
	case l.down:
		return m.Server.Trunc().Compare(l.target.Version.Trunc()) <= 0
	}
	return m.Server.AtLeast(l.target.Version)
}

// route finds the legs from what runs to the target, and says what is missing for it.
func (r *remarks) route(f Facts, c cluster) []leg {
	t := f.Target
	if t.Version.IsZero() {
		r.add("TARGET-UNKNOWN", "", "the version of "+cmp.Or(t.program(), "the target")+" is not known", "")
		return nil
	}
	if c.version.IsZero() {
		return nil // knowable has said so
	}
	var legs []leg
	switch to, cv := t.Version.Trunc(), c.version.Trunc(); {
	case to.Less(cv):
		legs = r.down(f, c, to)
	case t.Theseus || to == cv:
		legs = r.floor(f, c, t)
	default:
		legs = r.up(f, c, to)
	}
	return append(legs, leg{target: t, await: t.Version.Trunc(), last: true, down: t.Version.Trunc().Less(c.version.Trunc()), lower: r.lowering(c, t, legs)})
}

// lowering is what the last leg has to lower the cluster version to.
func (r *remarks) lowering(c cluster, t Target, before []leg) version.Version {
	at := c.version.Trunc()
	if n := len(before); n > 0 {
		at = before[n-1].await
	}
	if t.Version.Trunc().Less(at) {
		return t.Version.Trunc()
	}
	return version.Version{}
}

// up finds the legs between the cluster version and a real etcd above it.
func (r *remarks) up(f Facts, c cluster, to version.Version) (legs []leg) {
	for minor := c.version.Minor + 1; minor <= to.Minor; minor++ {
		v := version.V(c.version.Major, minor, 0)
		legs = append(legs, r.floor(f, c, Target{Version: v})...)
		if minor == to.Minor {
			break
		}
		h, ok := f.hop(v)
		if !ok {
			r.add("HOP-MISSING", "", fmt.Sprintf("real etcd goes one minor at a time, and no program of %s is named for the way from %s to %s", v.MinorString(), c.version.MinorString(), f.Target),
				fmt.Sprintf("add the binary or image of an etcd %s to hops", v.MinorString()))
			continue
		}
		if least := floors[version.V(v.Major, minor+1, 0)]; h.Version.Less(least) {
			r.addAs("PATCH-FLOOR", Block, "", fmt.Sprintf("hops names etcd %s, from which 3.%d must not be stepped to", h.Version, minor+1),
				fmt.Sprintf("name etcd %s or a later patch of it in hops", least))
		}
		legs = append(legs, leg{target: h, await: v})
	}
	return legs
}

// floors are the patches below which a real etcd must not step to the next minor.
var floors = map[version.Version]version.Version{version.V3_6: version.V(3, 5, 26), version.V3_7: version.V(3, 6, 11)}

// floor adds a leg within the running minor where the step to the next needs a newer
// patch of it.
func (r *remarks) floor(f Facts, c cluster, t Target) []leg {
	least, ok := floors[t.Version.Trunc()]
	if !ok || t.Theseus || !least.OneBelow(t.Version) || c.version.Trunc() != least.Trunc() {
		return nil
	}
	old := ""
	for _, m := range f.Members {
		if m.Err == "" && m.Theseus == "" && m.Server.SameMinor(least) && m.Server.Less(least) {
			old = m.Name
		}
	}
	if old == "" {
		return nil
	}
	h, ok := f.hop(least)
	if !ok || h.Version.Less(least) {
		r.addAs("PATCH-FLOOR", Block, old, fmt.Sprintf("it runs a patch below %s, from which etcd %s must not be stepped to", least, t.Version.MinorString()),
			fmt.Sprintf("add the binary or image of etcd %s or a later patch of it to hops", least))
		return nil
	}
	return []leg{{target: h, await: least.Trunc()}}
}

// down finds the legs between the cluster version and one below it.
func (r *remarks) down(f Facts, c cluster, to version.Version) (legs []leg) {
	switch {
	case to.Less(version.FloorDowngrade):
		r.add("LOWER-NEVER", "", fmt.Sprintf("no cluster can be lowered below %s, and this one is at %s", version.FloorDowngrade.MinorString(), c.version.MinorString()),
			"restore a backup of the old version into a cluster of its own")
		return nil
	case c.theseus:
		return nil // any version in one step
	case c.version.Less(version.V3_6):
		r.add("LOWER-NEVER", "", fmt.Sprintf("etcd %s cannot lower its cluster version", c.version.MinorString()),
			"move to Theseus first: from there the way down is open to 3.4")
		return nil
	case to.Less(version.V3_5):
		r.add("LOWER-NEVER", "", "etcd cannot be lowered below 3.5", "move to Theseus first: from there the way down is open to 3.4")
		return nil
	}
	from := c.version.Minor - 1
	if c.above { // lowered before, and not all members have followed
		from = c.version.Minor
	}
	for minor := from; minor > to.Minor; minor-- {
		v := version.V(c.version.Major, minor, 0)
		h, ok := f.hop(v)
		if !ok {
			r.add("HOP-MISSING", "", fmt.Sprintf("real etcd goes down one minor at a time, and no program of %s is named for the way from %s to %s", v.MinorString(), c.version.MinorString(), f.Target),
				fmt.Sprintf("add the binary or image of an etcd %s to hops", v.MinorString()))
			continue
		}
		l := leg{target: h, await: v, down: true}
		if v.Less(c.version.Trunc()) {
			l.lower = v
		}
		legs = append(legs, l)
	}
	return legs
}

// hop finds the newest patch of a minor that the operator named.
func (f Facts) hop(v version.Version) (best Target, ok bool) {
	for _, h := range f.Hops {
		if !h.Theseus && h.Version.SameMinor(v) && (!ok || best.Version.Less(h.Version)) {
			best, ok = h, true
		}
	}
	return best, ok
}

// ReadVersion reads what a program printed when asked for its version.
func ReadVersion(text string) (v version.Version, product string, theseus bool) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "etcd Version":
			v, _ = version.Parse(value)
		case "theseus Version":
			product, theseus = value, true
		case "Git SHA":
			if p, ok := strings.CutPrefix(value, "theseus-"); ok {
				product, theseus = p, true
			}
		}
	}
	return v, product, theseus
}
