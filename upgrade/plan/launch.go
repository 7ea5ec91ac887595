package plan

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"

	"theseus/version"
)

// mount is one volume of a container: host "" is a named or claimed volume.
type mount struct {
	host, inside string
	line         int
	ephemeral    bool
}

// launch is one start of etcd, whatever started it.
type launch struct {
	line       int
	order      int // where it stands in its script
	settings   []setting
	image      string
	imageLine  int
	container  bool
	mounts     []mount
	restart    int // line of an always-restart policy, 0 none
	background bool
	script     bool // an imperative start: its image is what is put in place, not what runs
}

func (l *launch) get(name string) (setting, bool) {
	for _, st := range l.settings {
		if st.name == name {
			return st, true
		}
	}
	return setting{}, false
}

func (l *launch) set(name string) bool { st, ok := l.get(name); return ok && st.value != "false" }

// args reads etcd's flags (surface 3.1) into settings.
func (l *launch) args(s *sheet, words []word) {
	for i := 0; i < len(words); i++ {
		w := words[i]
		if !strings.HasPrefix(w.text, "-") {
			if !w.known {
				s.add("NOT-UNDERSTOOD", w.line, "what this holds is known only when it runs: its flags were not read", "")
			} else if w.text != "" {
				s.add("FLAG-UNKNOWN", w.line, fmt.Sprintf("%q is not a valid flag", w.text), "")
			}
			continue
		}
		name, value, has := strings.Cut(strings.TrimLeft(w.text, "-"), "=")
		st := setting{name: name, value: value, known: w.known, line: w.line}
		if f := Flags[name]; !has && f.Kind == "bool" {
			st.value = "true"
		} else if !has && i+1 < len(words) && f.Name != "" {
			i++
			st.value, st.known = words[i].text, words[i].known
		}
		l.settings = append(l.settings, st)
	}
}

var versionIn = regexp.MustCompile(`v?(3\.[1-9]\.\d+)`)

// judge applies every rule about one start of etcd.
func (s *sheet) judge(l *launch) {
	from := s.opt.From
	if m := versionIn.FindString(path.Base(l.image)); m != "" {
		v, _ := version.Parse(strings.TrimPrefix(m, "v"))
		s.versions(l, v)
		if from.IsZero() && !l.script {
			from = v
		}
	} else if l.image != "" {
		s.add("IMAGE-FLOATING", l.imageLine, "the image "+l.image+" does not say which version it is", "")
	}
	s.hops(l, from)
	s.values(l)
	s.twice(l)
	s.dataDir(l)
	s.identity(l)
	s.urls(l)
	if l.background {
		s.add("BACKGROUND", l.line, "", "")
	}
}

// versions looks at the version that the artefact names.
func (s *sheet) versions(l *launch, v version.Version) {
	from := s.opt.From
	if l.script && from.IsZero() && !s.opt.NewCluster {
		s.add("VERSION-UNCHECKED", l.imageLine, fmt.Sprintf("%s is put in place, and the version that runs now is not checked", v), "")
	}
	if l.script && !from.IsZero() {
		s.jump(l.imageLine, from, v)
	}
	runs := v
	if l.script || !from.IsZero() {
		runs = from
	}
	if !l.script {
		s.floor(l.imageLine, runs)
	}
}

func (s *sheet) jump(line int, from, v version.Version) {
	switch {
	case v.Trunc().Less(from.Trunc()):
		s.add("VERSION-JUMP", line, fmt.Sprintf("%s is older than the running %s: an old binary refuses a raised cluster", v, from), "lower the cluster version first (etcdctl downgrade)")
	case v.Minor-from.Minor > 1 && v.Minor >= 6:
		s.add("VERSION-JUMP", line, fmt.Sprintf("%s cannot be stepped to from %s: members panic on log entries of the other version", v, from), "")
	case v.Minor-from.Minor > 1:
		s.addAs("VERSION-JUMP", Warn, line, fmt.Sprintf("%s to %s leaves out a minor", from, v), "")
	}
	s.floor(line, from)
}

func (s *sheet) floor(line int, runs version.Version) {
	to := s.opt.to()
	if runs.Minor == 5 && runs.Patch < 26 && to.Minor >= 6 {
		s.add("PATCH-FLOOR", line, fmt.Sprintf("%s is below the patch floor for 3.6: 3.5.26, and 3.5.32 where members were replaced", runs), "")
	}
	if runs.Minor == 6 && runs.Patch < 11 && to.Minor >= 7 {
		s.add("PATCH-FLOOR", line, fmt.Sprintf("%s is below the patch floor for 3.7: 3.6.11", runs), "")
	}
}

// twice finds settings that stand on the command line and in the environment.
func (s *sheet) twice(l *launch) {
	for _, e := range l.settings {
		if e.from != byEnv {
			continue
		}
		for _, f := range l.settings {
			if f.from == byFlag && f.name == e.name {
				s.add("FLAG-TWICE", e.line, fmt.Sprintf("%s is set as a flag on line %d, too: fatal from 3.4 on", e.name, f.line+s.base), "")
			}
		}
	}
	if c, ok := l.get("config-file"); ok && c.from != byFile {
		for _, f := range l.settings {
			if f.name != "config-file" {
				s.add("CONFIG-SHADOWS", c.line, "--config-file is given: every other flag and variable is ignored", "")
				break
			}
		}
		s.add("NOT-UNDERSTOOD", c.line, c.value+" holds the settings and was not read here", "review that file, too")
	}
}

var movedName = regexp.MustCompile(`(?i)(^|[-_./])(new|old|bak|backup|tmp|temp|copy|test)([-_./]|\d*$)`)

func (s *sheet) dataDir(l *launch) {
	d, ok := l.get("data-dir")
	_, conf := l.get("config-file")
	if !ok {
		if n, named := l.get("name"); !conf && !s.opt.NewCluster {
			name := "default"
			if named {
				name = n.value
			}
			s.add("DATA-DEFAULT", l.line, "no --data-dir: the default is "+name+".etcd under the working directory", "")
		}
		return
	}
	if !l.container {
		return
	}
	var on *mount
	for i, m := range l.mounts {
		if within(d.value, m.inside) && (on == nil || len(m.inside) > len(on.inside)) {
			on = &l.mounts[i]
		}
	}
	switch {
	case on == nil && d.known:
		s.add("DATA-UNMOUNTED", d.line, d.value+" lies inside the container: it is gone with it", "")
	case on == nil:
	case on.ephemeral:
		s.add("DATA-UNMOUNTED", on.line, "the volume under "+d.value+" lives only as long as the pod", "")
	case movedName.MatchString(on.host):
		s.add("DATA-MOVED", on.line, fmt.Sprintf("the host path %s does not sound like the one in use: an empty member that says it exists panics (tocommit out of range)", on.host), "")
	}
}

// within says whether p is dir or lies below it.
func within(p, dir string) bool {
	p, dir = path.Clean(p), path.Clean(dir)
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

func (s *sheet) identity(l *launch) {
	if s.opt.NewCluster {
		return
	}
	if l.set("force-new-cluster") {
		st, _ := l.get("force-new-cluster")
		s.add("FORCE-NEW", st.line, "", "")
	}
	ic, listed := l.get("initial-cluster")
	if st, ok := l.get("initial-cluster-state"); ok && st.value == "new" {
		s.add("STATE-NEW", st.line, "", "")
		if l.restart > 0 {
			s.add("RESTART-WIPES", l.restart, "automatic restart around a start that says new: a failed start loops", "")
		}
	} else if !ok && listed && strings.Contains(ic.value, ",") {
		s.add("STATE-DEFAULT", ic.line, "", "")
	}
	peer, hasPeer := l.get("initial-advertise-peer-urls")
	name, named := l.get("name")
	if named && name.known && hasPeer && !peer.known {
		s.add("NAME-CONSTANT", name.line, "the address is computed and the name "+name.value+" is not: the same name on every host", "")
	}
	if !listed {
		return
	}
	if _, ok := l.get("initial-cluster-token"); !ok && strings.Contains(ic.value, ",") {
		s.add("TOKEN-DEFAULT", ic.line, "", "")
	}
	if ic.known && hasPeer && !peer.known {
		s.add("CLUSTER-LITERAL", ic.line, "", "")
	}
	s.list(ic, name, peer, named && name.known, hasPeer && peer.known)
}

// list checks initial-cluster against the member's own name and address.
func (s *sheet) list(ic, name, peer setting, named, addressed bool) {
	if !ic.known {
		return
	}
	names, mine := map[string]bool{}, []string{}
	for _, part := range strings.Split(ic.value, ",") {
		n, u, _ := strings.Cut(part, "=")
		names[n] = true
		if n == name.value {
			mine = append(mine, strings.TrimSuffix(u, "/"))
		}
	}
	if len(names) > 0 && len(names)%2 == 0 {
		s.add("EVEN-MEMBERS", ic.line, fmt.Sprintf("initial-cluster lists %d members", len(names)), "")
	}
	if !named {
		return
	}
	if len(mine) == 0 {
		s.add("NAME-UNLISTED", ic.line, "initial-cluster does not list "+name.value, "")
		return
	}
	if addressed && !strings.Contains(","+strings.Join(mine, ",")+",", ","+strings.TrimSuffix(strings.Split(peer.value, ",")[0], "/")+",") {
		s.add("PEER-URL-CHANGED", peer.line, fmt.Sprintf("initial-cluster says %s for %s", strings.Join(mine, ","), name.value), "")
	}
}

var urlFlags = []struct {
	name, wrong string
	cert, auto  string
	advertise   bool
}{
	{"advertise-client-urls", "2380", "", "", true},
	{"listen-client-urls", "2380", "cert-file", "auto-tls", false},
	{"initial-advertise-peer-urls", "2379", "", "", true},
	{"listen-peer-urls", "2379", "peer-cert-file", "peer-auto-tls", false},
}

func (s *sheet) urls(l *launch) {
	for _, u := range urlFlags {
		st, ok := l.get(u.name)
		if !ok {
			continue
		}
		tls, plain := false, false
		for _, raw := range strings.Split(st.value, ",") {
			host, port, scheme := splitURL(raw)
			tls, plain = tls || scheme == "https", plain || scheme == "http"
			if port == u.wrong {
				s.add("URL-PORT", st.line, fmt.Sprintf("--%s has %s with port %s", u.name, raw, port), "")
			}
			if u.advertise && (host == "localhost" || strings.HasPrefix(host, "127.") || host == "0.0.0.0") && !s.single(l) {
				s.add("URL-LOOPBACK", st.line, fmt.Sprintf("--%s has %s", u.name, raw), "")
			}
		}
		s.tls(l, st, u.cert, u.auto, tls, plain)
	}
	s.dropped(l)
}

// dropped finds plain URLs that others can reach, beside https elsewhere.
func (s *sheet) dropped(l *launch) {
	https := false
	for _, u := range urlFlags {
		st, _ := l.get(u.name)
		https = https || strings.Contains(st.value, "https://")
	}
	for _, u := range urlFlags {
		st, ok := l.get(u.name)
		for _, raw := range strings.Split(st.value, ",") {
			host, _, scheme := splitURL(raw)
			if ok && https && scheme == "http" && host != "localhost" && !strings.HasPrefix(host, "127.") && host != "::1" {
				s.add("TLS-DROPPED", st.line, fmt.Sprintf("--%s has %s, and other URLs of this member are https", u.name, raw), "")
			}
		}
	}
}

// single says that the member is alone and meant for this host only.
func (s *sheet) single(l *launch) bool {
	for _, name := range []string{"listen-peer-urls", "initial-advertise-peer-urls"} {
		if st, ok := l.get(name); ok && !strings.Contains(st.value, "127.0.0.1") && !strings.Contains(st.value, "localhost") {
			return false
		}
	}
	return true
}

func (s *sheet) tls(l *launch, st setting, cert, auto string, tls, plain bool) {
	if cert == "" {
		return
	}
	c, has := l.get(cert)
	if tls && !has && !l.set(auto) {
		line := st.line
		if sec, ok := l.get("client-transport-security"); ok && cert == "peer-cert-file" {
			line = sec.line
		}
		s.add("TLS-MISSING", line, fmt.Sprintf("--%s is https and there is no %s: the listener has no certificate", st.name, cert), "")
	}
	if plain && !tls && has {
		s.add("TLS-IGNORED", c.line, fmt.Sprintf("--%s is http: the certificate is ignored", st.name), "")
	}
	if a, ok := l.get(auto); ok && plain && !tls && a.value != "false" {
		s.add("TLS-IGNORED", a.line, fmt.Sprintf("--%s is http: --%s does nothing", st.name, auto), "")
	}
}

func splitURL(raw string) (host, port, scheme string) {
	if u, err := url.Parse(strings.TrimSpace(raw)); err == nil {
		return u.Hostname(), u.Port(), u.Scheme
	}
	scheme, rest, _ := strings.Cut(raw, "://")
	host, port, _ = strings.Cut(rest, ":")
	return host, strings.TrimRight(port, "/"), scheme
}
