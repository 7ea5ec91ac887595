package plan

import (
	"path"
	"strings"

	"go.yaml.in/yaml/v3"
)

type kind int

const (
	kindUnknown kind = iota
	kindShell
	kindYAML
	kindUnit
	kindEnv
)

// Review reads every artefact and says what it found, file by file. It never
// changes or runs anything.
func Review(as []Artefact, o Options) []Finding {
	var all []Finding
	for _, a := range as {
		s := newSheet(a, o)
		s.text(kindOf(a.Name, a.Data), a.Data)
		all = append(all, s.sorted()...)
	}
	return all
}

func kindOf(name string, data []byte) kind {
	text := string(data)
	switch ext := path.Ext(name); {
	case strings.HasPrefix(text, "#!") || ext == ".sh" || ext == ".bash":
		return kindShell
	case ext == ".yaml" || ext == ".yml" || ext == ".json":
		return kindYAML
	case ext == ".service" || ext == ".conf" && strings.Contains(text, "[Service]") || strings.Contains(text, "\n[Service]") || strings.HasPrefix(text, "[Service]"):
		return kindUnit
	case ext == ".env" || strings.Contains(text, "ETCD_") && envOnly(text):
		return kindEnv
	}
	return kindUnknown
}

func envOnly(text string) bool {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if k, _, ok := strings.Cut(line, "="); line != "" && line[0] != '#' && (!ok || strings.ContainsAny(strings.TrimPrefix(k, "export "), " \t")) {
			return false
		}
	}
	return true
}

func (s *sheet) text(k kind, data []byte) {
	switch k {
	case kindShell:
		s.shellScript(data)
	case kindYAML:
		s.yaml(data)
	case kindUnit:
		s.unit(string(data))
	case kindEnv:
		s.envFile(string(data))
	default:
		s.addAs("NOT-UNDERSTOOD", Block, 0, "neither a shell script, YAML, a systemd unit nor an environment file: nothing of it was read", "give it its usual ending")
	}
}

// node wraps a YAML node with safe ways down.
type node struct{ *yaml.Node }

func (n node) at(keys ...string) node {
	for _, k := range keys {
		var next *yaml.Node
		n = n.real()
		if n.Node != nil && n.Kind == yaml.MappingNode {
			for i := 0; i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == k {
					next = n.Content[i+1]
				}
			}
		}
		n = node{next}
	}
	return n.real()
}

// real follows an alias.
func (n node) real() node {
	for i := 0; n.Node != nil && n.Kind == yaml.AliasNode && i < 8; i++ {
		n.Node = n.Alias
	}
	return n
}

func (n node) text() string {
	if n.Node == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

func (n node) line() int {
	if n.Node == nil {
		return 0
	}
	return n.Line
}

func (n node) list() (out []node) {
	if n.Node != nil && n.Kind == yaml.SequenceNode {
		for _, c := range n.Content {
			out = append(out, node{c}.real())
		}
	}
	return out
}
