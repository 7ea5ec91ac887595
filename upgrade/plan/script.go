package plan

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// script is the review of one shell script.
type script struct {
	*sheet
	commands                []command // all of them, also those that others run, in order
	writes                  []write
	functions               map[string]bool
	order, texts            int
	inside                  []string // data directories as their containers see them
	data                    []string // data directories, as a container and as the host see them
	launches                []*launch
	changed, health, backup int // order of the first change, last health check, first v3 backup
	lastChange, wiped       int
	gated                   bool
}

// shellScript reviews a script; false says that the text is no shell script.
func (s *sheet) shellScript(text []byte) bool {
	sh, err := parseShell(text)
	if err != nil {
		s.addAs("NOT-UNDERSTOOD", Block, 1, "the shell does not parse: "+err.Error(), "")
		return false
	}
	r := &script{sheet: s, functions: map[string]bool{}}
	r.readAll(sh, nil, 0)
	for i := range r.commands {
		if l := r.launchOf(&r.commands[i]); l != nil {
			l.order = r.commands[i].order
			r.launches = append(r.launches, l)
			r.learn(l)
		}
		r.learnBackup(&r.commands[i])
	}
	for i := range r.commands {
		r.command(&r.commands[i])
	}
	for _, w := range r.writes {
		r.written(w)
	}
	for _, l := range r.launches {
		if r.wiped > 0 && l.restart > 0 {
			r.add("RESTART-WIPES", l.restart, "automatic restart around a script that wipes", "")
		}
		r.judge(l)
		r.change(l.order)
	}
	r.tail()
	return true
}

func (r *script) learn(l *launch) {
	for _, n := range []string{"data-dir", "wal-dir"} {
		d, ok := l.get(n)
		if !ok || !d.known {
			continue
		}
		if l.container {
			r.inside = append(r.inside, d.value)
		} else {
			r.data = append(r.data, d.value)
		}
		for _, m := range l.mounts {
			if within(d.value, m.inside) && m.host != "" {
				r.data = append(r.data, path.Join(m.host, strings.TrimPrefix(d.value, m.inside)))
			}
		}
	}
}

func (r *script) learnBackup(c *command) {
	if c.name() != "etcdctl" {
		return
	}
	for i, w := range c.words {
		if v, ok := strings.CutPrefix(w.text, "--data-dir="); ok {
			r.data = append(r.data, v)
		} else if w.text == "--data-dir" && i+1 < len(c.words) {
			r.data = append(r.data, c.words[i+1].text)
		}
	}
}

// launchOf finds a start of etcd in a command, direct or through docker run.
func (r *script) launchOf(c *command) *launch {
	ws := c.words
	switch {
	case isEtcd(ws[0].text):
		if len(ws) == 1 || ws[1].text == "--version" || ws[1].text == "--help" {
			return nil
		}
		l := &launch{line: c.line, background: c.background, script: true}
		l.args(r.sheet, ws[1:])
		return l
	case (c.name() == "docker" || c.name() == "podman" || c.name() == "nerdctl") && len(ws) > 2 && (ws[1].text == "run" || ws[1].text == "create"):
		return dockerRun(r.sheet, c.line, ws[2:])
	}
	return nil
}

func isEtcd(s string) bool { return path.Base(s) == "etcd" }

var dockerBare = regexp.MustCompile(`^(-[ditP]+|--(detach|rm|init|privileged|read-only|interactive|tty|publish-all|no-healthcheck))$`)

func dockerRun(s *sheet, line int, ws []word) *launch {
	l := &launch{line: line, container: true, script: true}
	var env []setting
	i := 0
	for ; i < len(ws) && strings.HasPrefix(ws[i].text, "-"); i++ {
		w := ws[i]
		if dockerBare.MatchString(w.text) {
			continue
		}
		name, value, has := strings.Cut(w.text, "=")
		if !has && i+1 < len(ws) {
			i++
			value = ws[i].text
		}
		switch name {
		case "-v", "--volume":
			l.mounts = append(l.mounts, volume(value, w.line))
		case "--mount":
			l.mounts = append(l.mounts, mountOption(value, w.line))
		case "--restart":
			if value == "always" || value == "unless-stopped" {
				l.restart = w.line
			}
		case "-e", "--env":
			if st, ok := environment(value, w.line); ok {
				env = append(env, st)
			}
		case "--env-file":
			s.add("NOT-UNDERSTOOD", w.line, value+" was not read", "review that file, too")
		}
	}
	if i >= len(ws) {
		return nil
	}
	l.image, l.imageLine = ws[i].text, ws[i].line
	rest := ws[i+1:]
	if len(rest) > 0 && isEtcd(rest[0].text) {
		rest = rest[1:]
	} else if !strings.Contains(path.Base(l.image), "etcd") || len(rest) > 0 && !strings.HasPrefix(rest[0].text, "-") {
		return nil
	}
	l.args(s, rest)
	l.settings = append(l.settings, env...)
	return l
}

func volume(v string, line int) mount {
	p := strings.Split(v, ":")
	if len(p) == 1 {
		return mount{inside: v, line: line}
	}
	return mount{host: p[0], inside: p[1], line: line}
}

func mountOption(v string, line int) mount {
	m := mount{line: line}
	for _, kv := range strings.Split(v, ",") {
		switch k, x, _ := strings.Cut(kv, "="); k {
		case "source", "src":
			m.host = x
		case "target", "destination", "dst":
			m.inside = x
		case "type":
			m.ephemeral = x == "tmpfs"
		}
	}
	return m
}

func environment(kv string, line int) (setting, bool) {
	k, v, ok := strings.Cut(kv, "=")
	name, etcd := strings.CutPrefix(k, "ETCD_")
	if !ok || !etcd || name == "VERSION" || name == "UNSUPPORTED_ARCH" || name == "VERIFY" {
		return setting{}, false
	}
	name = strings.ToLower(strings.ReplaceAll(name, "_", "-"))
	return setting{name: name, value: v, known: !strings.Contains(v, "$"), line: line, from: byEnv}, true
}

func (r *script) change(order int) {
	if r.changed == 0 || order < r.changed {
		r.changed = order
	}
	r.lastChange = max(r.lastChange, order)
}

var nameKill = regexp.MustCompile(`(pgrep|pidof|ps .*grep).*etcd`)

// command applies the rules about one command that is not a start of etcd.
func (r *script) command(c *command) {
	switch c.name() {
	case "rm", "shred", "mv", "find", "rsync", "mkfs":
		r.removal(c)
	case "kill", "pkill", "killall":
		if c.name() == "kill" && strings.Contains(c.in, "etcd") {
			r.add("KILL-HARD", c.line, "", "")
			r.change(c.order)
		}
		if (c.name() == "kill" && nameKill.MatchString(c.raw)) || (c.name() != "kill" && strings.Contains(c.raw, "etcd")) {
			r.add("KILL-BROAD", c.line, "broad kill: every process whose name matches, etcd or not; no leadership hand-over", "")
			r.change(c.order)
		}
	case "docker", "podman", "nerdctl", "docker-compose":
		r.docker(c, c.words[1:])
	case "systemctl", "service":
		if c.has("stop", "restart", "kill") && strings.Contains(c.raw, "etcd") {
			if r.backup == 0 && r.health == 0 {
				r.add("STOP-UNGUARDED", c.line, "", "")
			}
			r.change(c.order)
			r.looped(c)
		}
	case "etcdctl":
		r.etcdctl(c, c.words[1:])
	case "cp", "tar":
		for _, w := range c.words[1:] {
			if slices.ContainsFunc(r.data, func(d string) bool { return within(w.text, d) || within(d, w.text) && w.text != "/" }) || knownData(w.text) {
				r.add("BACKUP-CP", c.line, w.text+" is copied while the member may be writing", "")
			}
		}
	case "curl":
		if strings.Contains(c.raw, "/health") || strings.Contains(c.raw, "/readyz") {
			r.health, r.gated = c.order, r.gated || c.cond || c.strict
		}
	default:
		r.other(c)
	}
	r.documents(c)
}

// harmless are commands that change no member whatever their arguments are.
var harmless = strings.Fields(": true false [ [[ test echo printf set shift exit return sleep mkdir cd pwd cat grep pgrep pidof head tail sort date hostname id wait trap read ls chmod chown tee")

func (r *script) other(c *command) {
	switch c.name() {
	case "source", ".", "eval":
		r.add("REMOTE-CODE", c.line, c.name()+" runs a text that was not read", "")
	default:
		if !c.words[0].known {
			r.add("NOT-UNDERSTOOD", c.line, "which command runs is known only when it runs", "")
		} else if !slices.Contains(harmless, c.name()) && !r.functions[c.words[0].text] && !isEtcd(c.words[0].text) {
			r.add("NOT-UNDERSTOOD", c.line, "what "+c.words[0].text+" does is not known to the review", "")
		}
	}
}

func (r *script) documents(c *command) {
	for _, d := range c.docs {
		kind := kindOf(d.name, []byte(d.text))
		if kind == kindUnknown || kind == kindShell && !strings.HasSuffix(d.name, ".sh") {
			if d.name != "" && !passing(d.name) {
				r.add("NOT-UNDERSTOOD", c.line, "what is written to "+d.name+" was not read", "review that text, too")
			}
			continue
		}
		in := r.inner(d.before)
		in.text(kind, []byte(d.text))
		for _, f := range in.found {
			if !slices.Contains(r.found, f) {
				r.found = append(r.found, f)
			}
		}
	}
}

// passing says that nothing starts or stops by what such a file holds.
func passing(name string) bool {
	for _, root := range []string{"/dev", "/tmp", "/var/tmp", "/var/log", "/proc"} {
		if within(name, root) {
			return true
		}
	}
	return strings.HasSuffix(name, ".log") || strings.HasSuffix(name, ".out")
}

// written judges a file that a command's output goes to.
func (r *script) written(w write) {
	p := w.to.text
	inData := slices.ContainsFunc(r.data, func(d string) bool { return within(p, d) })
	switch {
	case inData || strings.Contains(p, "member/wal") || strings.Contains(p, "member/snap"):
		r.add("DATA-REMOVED", w.line, p+" lies in the data directory and is overwritten", "")
		r.change(w.order)
	case passing(p):
	case !w.to.known:
		r.add("NOT-UNDERSTOOD", w.line, "which file "+p+" is, is known only when it runs, and it is written", "")
	default:
		r.add("NOT-UNDERSTOOD", w.line, "what is written to "+p+" was not read", "review that text, too")
	}
}

var safeRoots = []string{"/usr", "/opt", "/tmp", "/etc", "/bin"}

// knownData says that a path's name is that of etcd data wherever it is used.
func knownData(p string) bool {
	p = path.Clean(p)
	for _, root := range safeRoots {
		if within(p, root) {
			return strings.HasSuffix(p, ".etcd")
		}
	}
	return path.IsAbs(p) && strings.Contains(p, "etcd") && path.Ext(p) == "" && !strings.Contains(p, "backup") || strings.HasSuffix(p, ".etcd") || strings.Contains(p, "member/wal") || strings.Contains(p, "member/snap")
}

func (r *script) removal(c *command) {
	if c.name() == "find" && !strings.Contains(c.raw, "-delete") && !strings.Contains(c.raw, "rm") || c.name() == "rsync" && !strings.Contains(c.raw, "--delete") {
		return
	}
	for _, w := range c.words[1:] {
		if strings.HasPrefix(w.text, "-") || w.text == "" {
			continue
		}
		p := strings.TrimSuffix(strings.TrimSuffix(w.text, "*"), "/")
		data := r.data
		if c.in != "" {
			data = slices.Concat(data, r.inside)
		}
		hit := slices.ContainsFunc(data, func(d string) bool { return within(d, p+"/") || within(p, d) })
		switch {
		case hit || knownData(p):
			r.add("DATA-REMOVED", c.line, w.text+" holds the data directory of the member", "")
			r.change(c.order)
			r.wiped = c.order
		case !w.known:
			r.add("NOT-UNDERSTOOD", c.line, "what "+w.text+" names is known only when it runs, and it is removed or moved", "")
		}
	}
}

func (r *script) docker(c *command, ws []word) {
	etcd := strings.Contains(c.raw, "etcd")
	has := func(t string) bool { return c.has(t) }
	switch {
	case has("rm") && etcd && !has("volume"):
		if slices.ContainsFunc(ws, func(w word) bool { return w.text == "-f" || w.text == "--force" || w.text == "-fv" }) {
			r.add("CONTAINER-FORCED", c.line, "", "")
		} else {
			r.add("CONTAINER-REMOVED", c.line, "", "")
		}
		r.change(c.order)
	case has("volume") && (has("rm") || has("prune")), has("down") && (has("-v") || has("--volumes")):
		r.add("DATA-REMOVED", c.line, "a volume is removed: the data directory may lie on it", "")
		r.change(c.order)
	case has("kill") && etcd:
		r.add("KILL-HARD", c.line, "", "")
		r.change(c.order)
	case (has("stop") || has("restart")) && etcd:
		r.change(c.order)
		r.looped(c)
	}
}

func (r *script) looped(c *command) {
	if len(c.loops) == 0 {
		return
	}
	around := c.loops[len(c.loops)-1]
	for _, d := range r.commands {
		if slices.Contains(d.loops, around) && d.order > c.order && strings.Contains(d.raw, "health") {
			return
		}
	}
	r.add("LOOP-NO-GATE", c.line, fmt.Sprintf("the loop of line %d changes member after member and waits for none", around.line+r.base), "")
}

func (r *script) etcdctl(c *command, ws []word) {
	text := " "
	for _, w := range ws {
		text += w.text + " "
	}
	has := func(t string) bool { return strings.Contains(text, " "+t+" ") || strings.Contains(text, " "+t+"=") }
	if has("--ca-file") {
		r.add("ETCDCTL-V2", c.line, "--ca-file is the v2 tool's flag; --cacert since API 3", "--cacert")
	}
	switch {
	case has("cluster-health"):
		r.add("ETCDCTL-V2", c.line, "cluster-health is the v2 command: etcdctl 3.4 and later need ETCDCTL_API=2 for it, 3.6 and later do not have it", "etcdctl endpoint health --cluster")
	case has("backup"):
		r.add("BACKUP-V2", c.line, "", "")
	case has("snapshot") && has("save"):
		if r.backup == 0 {
			r.backup = c.order
		}
	case has("snapshot") && (has("restore") || has("status")):
		r.add("ETCDCTL-MOVED", c.line, "snapshot restore and status are gone from etcdctl in 3.6", "etcdutl snapshot ...")
	case has("migrate"):
		r.add("ETCDCTL-V2", c.line, "migrate is gone in 3.5", "")
	}
	if has("cluster-health") || has("endpoint") && (has("health") || has("status")) {
		r.health, r.gated = c.order, r.gated || c.cond
	}
}

// tail says what the script as a whole lacks.
func (r *script) tail() {
	if r.changed == 0 || r.opt.NewCluster {
		return
	}
	if (r.backup == 0 || r.backup > r.changed) && !r.has("BACKUP-V2", "BACKUP-CP") {
		r.add("BACKUP-NONE", 0, "", "")
	}
	if r.health < r.lastChange {
		r.add("HEALTH-NONE", 0, "", "")
	} else if !r.gated {
		r.add("GATE-NONE", 0, "", "")
	}
}
