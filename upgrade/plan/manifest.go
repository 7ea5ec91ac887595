package plan

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"mvdan.cc/sh/v3/syntax"
)

// yaml reviews Kubernetes manifests, compose files and etcd's own config file.
func (s *sheet) yaml(data []byte) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			s.addAs("NOT-UNDERSTOOD", Block, 0, "the YAML does not parse: "+err.Error(), "")
			return
		}
		if len(doc.Content) == 0 {
			continue
		}
		s.document(node{doc.Content[0]}, 0)
	}
}

// maxDepth bounds lists in lists.
const maxDepth = 4

// document reviews one document of a YAML file, or one item of a list in it.
func (s *sheet) document(top node, depth int) {
	items := top.at("items")
	switch kind := top.at("kind").text(); {
	case strings.HasSuffix(kind, "List") && len(items.list()) > 0 && depth < maxDepth: // an alias may lead back here
		for _, item := range items.list() {
			s.document(item, depth+1)
		}
	case kind == "Pod":
		s.pod(top.at("spec"), nil)
	case top.at("spec", "jobTemplate", "spec", "template", "spec").Node != nil:
		s.pod(top.at("spec", "jobTemplate", "spec", "template", "spec"), nil)
	case top.at("spec", "template", "spec").Node != nil:
		s.set(top.at("spec"))
	case top.at("services").Node != nil:
		s.compose(top.at("services"))
	case top.at("name").Node != nil || top.at("data-dir").Node != nil || top.at("listen-client-urls").Node != nil:
		s.config(top)
	default:
		s.add("NOT-UNDERSTOOD", top.line(), "no pod, set, job, list, compose file or etcd configuration: this document was not read", "")
	}
}

func (s *sheet) set(spec node) {
	if p := spec.at("podManagementPolicy"); p.text() == "Parallel" {
		s.add("PARALLEL", p.line(), "", "")
	}
	var claims []string
	for _, c := range spec.at("volumeClaimTemplates").list() {
		claims = append(claims, c.at("metadata", "name").text())
	}
	s.pod(spec.at("template", "spec"), claims)
}

func words(n node) (out []word) {
	for _, w := range n.list() {
		out = append(out, word{w.text(), !strings.Contains(w.text(), "$("), w.line()})
	}
	return out
}

func (s *sheet) pod(spec node, claims []string) {
	volumes := map[string]mount{}
	for _, c := range claims {
		volumes[c] = mount{}
	}
	for _, v := range spec.at("volumes").list() {
		volumes[v.at("name").text()] = mount{host: v.at("hostPath", "path").text(), ephemeral: v.at("emptyDir").Node != nil}
	}
	for _, c := range append(spec.at("initContainers").list(), spec.at("containers").list()...) {
		l := &launch{line: c.line(), image: c.at("image").text(), imageLine: c.at("image").line(), container: true}
		for _, m := range c.at("volumeMounts").list() {
			if v, ok := volumes[m.at("name").text()]; ok {
				v.inside, v.line = m.at("mountPath").text(), m.line()
				l.mounts = append(l.mounts, v)
			}
		}
		for _, e := range c.at("env").list() {
			if st, ok := environment(e.at("name").text()+"="+e.at("value").text(), e.line()); ok {
				st.known = st.known && e.at("value").Node != nil
				l.settings = append(l.settings, st)
			}
		}
		if s.start(l, append(words(c.at("command")), words(c.at("args"))...)) {
			s.probes(c, l)
		}
		for _, hook := range []string{"preStop", "postStart"} {
			s.hook(c.at("lifecycle", hook))
		}
	}
}

// hook reviews a command that the kubelet runs in the container.
func (s *sheet) hook(h node) {
	if h.Node == nil {
		return
	}
	ws := words(h.at("exec", "command"))
	switch {
	case len(ws) == 0:
		s.add("NOT-UNDERSTOOD", h.line(), "this hook runs no command that could be read", "")
	case len(ws) > 2 && strings.HasSuffix(ws[0].text, "sh") && strings.HasPrefix(ws[1].text, "-"):
		s.embedded(ws[2].text, ws[2].line)
	default:
		s.plain(ws)
	}
}

// plain reviews a command that is given as a list of words, without a shell.
func (s *sheet) plain(ws []word) {
	var quoted []string
	for _, w := range ws {
		q, err := syntax.Quote(w.text, syntax.LangBash)
		if err != nil {
			s.add("NOT-UNDERSTOOD", ws[0].line, "this command could not be read", "")
			return
		}
		quoted = append(quoted, q)
	}
	s.embedded(strings.Join(quoted, " "), ws[0].line)
}

// embedded reviews a shell script that stands in a manifest.
func (s *sheet) embedded(text string, line int) {
	in := s.inner(line - 1)
	in.shellScript([]byte(strings.ReplaceAll(text, "$(", "${")))
	for _, f := range in.found {
		if !slices.Contains(s.found, f) {
			s.found = append(s.found, f)
		}
	}
}

// start reads what a container runs; false when that is not etcd itself.
func (s *sheet) start(l *launch, ws []word) bool {
	switch {
	case len(ws) > 0 && isEtcd(ws[0].text):
		ws = ws[1:]
	case len(ws) > 2 && strings.HasSuffix(ws[0].text, "sh") && strings.HasPrefix(ws[1].text, "-"):
		s.embedded(ws[2].text, ws[2].line)
		s.add("NOT-UNDERSTOOD", ws[2].line, "etcd is started by a script here: what its container mounts was not compared", "")
		return false
	case !strings.Contains(l.image, "etcd"):
		return false
	case len(ws) > 0 && !strings.HasPrefix(ws[0].text, "-"):
		s.plain(ws)
		s.add("NOT-UNDERSTOOD", ws[0].line, "this does not start etcd itself", "")
		return false
	}
	l.args(s, ws)
	s.judge(l)
	return true
}

func (s *sheet) probes(c node, l *launch) {
	for _, p := range []string{"livenessProbe", "readinessProbe", "startupProbe"} {
		get := c.at(p, "httpGet")
		port := get.at("port").text()
		if get.Node == nil || port == "" {
			continue
		}
		scheme, served := strings.ToLower(get.at("scheme").text()), false
		if scheme == "" {
			scheme = "http"
		}
		for _, name := range []string{"listen-metrics-urls", "listen-client-urls", "listen-client-http-urls"} {
			st, _ := l.get(name)
			for _, u := range strings.Split(st.value, ",") {
				_, up, us := splitURL(u)
				served = served || up == port && us == scheme
			}
		}
		if !served && strings.Trim(port, "0123456789") == "" {
			s.add("PROBE-UNSERVED", get.line(), p+" asks "+scheme+" port "+port+", which no listener of this member serves", "")
		}
	}
}

func (s *sheet) compose(services node) {
	if services.Kind != yaml.MappingNode {
		return
	}
	for i := 1; i < len(services.Content); i += 2 {
		c := node{services.Content[i]}.real()
		l := &launch{line: services.Content[i-1].Line, image: c.at("image").text(), imageLine: c.at("image").line(), container: true}
		for _, v := range c.at("volumes").list() {
			if v.Kind == yaml.MappingNode {
				l.mounts = append(l.mounts, mount{host: v.at("source").text(), inside: v.at("target").text(), line: v.line(), ephemeral: v.at("type").text() == "tmpfs"})
			} else {
				l.mounts = append(l.mounts, volume(v.text(), v.line()))
			}
		}
		if r := c.at("restart"); r.text() == "always" || r.text() == "unless-stopped" {
			l.restart = r.line()
		}
		s.composeEnv(c.at("environment"), l)
		ws := words(c.at("command"))
		if t := c.at("command"); t.text() != "" {
			if sh, err := parseShell([]byte(t.text())); err == nil && len(sh.commands) > 0 {
				for _, w := range sh.commands[0].words {
					w.line = t.line()
					ws = append(ws, w)
				}
			} else {
				s.add("NOT-UNDERSTOOD", t.line(), "this command could not be read", "")
			}
		}
		s.start(l, ws)
	}
}

func (s *sheet) composeEnv(env node, l *launch) {
	for _, e := range env.list() {
		if st, ok := environment(e.text(), e.line()); ok {
			l.settings = append(l.settings, st)
		}
	}
	if env.Node != nil && env.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(env.Content); i += 2 {
			if st, ok := environment(env.Content[i].Value+"="+env.Content[i+1].Value, env.Content[i].Line); ok {
				l.settings = append(l.settings, st)
			}
		}
	}
}

// sections are the grouped keys of the config file; the value is the prefix of their flags.
var sections = map[string]string{"client-transport-security": "", "peer-transport-security": "peer-"}

func (s *sheet) config(top node) {
	l := &launch{line: top.line()}
	for i := 0; i+1 < len(top.Content); i += 2 {
		k, v := top.Content[i], node{top.Content[i+1]}.real()
		prefix, group := sections[k.Value]
		switch {
		case group && v.Kind == yaml.MappingNode:
			l.settings = append(l.settings, setting{name: k.Value, line: k.Line, known: true, from: byFile})
			for j := 0; j+1 < len(v.Content); j += 2 {
				l.settings = append(l.settings, setting{prefix + v.Content[j].Value, v.Content[j+1].Value, true, v.Content[j].Line, byFile})
			}
		case k.Value == "discovery-config" || k.Value == "socket-options":
		case k.Value == "auto-compaction-retention" && v.Tag != "!!str":
			s.add("FLAG-TYPE", k.Line, `auto-compaction-retention must be a string from 3.3 on: as a number the file does not load`, `write it as "`+v.text()+`h" or "`+v.text()+`"`)
			fallthrough
		default:
			l.settings = append(l.settings, setting{k.Value, v.text(), true, k.Line, byFile})
		}
	}
	s.judge(l)
}
