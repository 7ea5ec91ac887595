package host

import (
	"fmt"
	"path"
	"strings"
)

// serveWord is what stands before a member's own arguments when the program is a
// Theseus under its own name: it takes etcd's flags behind its word serve, and
// without the word only when it is called by the name etcd.
const serveWord = "serve"

// words returns what must stand between a program and the arguments of etcd, as told
// by what the program answered to --version.
func words(version string) []string {
	if strings.HasPrefix(strings.TrimSpace(version), "theseus ") {
		return []string{serveWord}
	}
	return nil
}

// memberArgs returns args without serveWord: the same arguments whichever program has them.
func memberArgs(args []string) []string {
	if len(args) > 0 && args[0] == serveWord {
		return args[1:]
	}
	return args
}

// printed returns what a program printed as its version in one line, or an error if
// it printed none: a program that runs and says nothing is no member.
func printed(p Program, out string) (string, error) {
	var lines []string
	for l := range strings.Lines(out) {
		if l = strings.TrimSpace(l); l != "" {
			lines = append(lines, l)
		}
	}
	for _, l := range lines {
		if strings.HasPrefix(strings.ToLower(l), "etcd version:") {
			return strings.Join(lines, "\n"), nil
		}
	}
	if len(lines) == 0 {
		lines = []string{"nothing"}
	}
	return "", fmt.Errorf("ask %s for its version: it printed %q and no \"etcd Version:\": name a binary or image of etcd or Theseus", p, clip(lines[0]))
}

// clip keeps what a program wrote to a length that fits into an error.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

// dataDir returns where a member with args and env has its data, as it names it, and
// "" if a configuration file says so instead. dir is the member's working directory.
func dataDir(args []string, env map[string]string, dir string) string {
	value := func(flag, name string) string {
		v := env[name]
		for i, a := range args {
			key, val, ok := strings.Cut(a, "=")
			if strings.TrimLeft(key, "-") != flag || !strings.HasPrefix(a, "-") {
				continue
			}
			if ok {
				v = val
			} else if i+1 < len(args) {
				v = args[i+1]
			}
		}
		return v
	}
	if value("config-file", "ETCD_CONFIG_FILE") != "" {
		return ""
	}
	d := value("data-dir", "ETCD_DATA_DIR")
	if d == "" {
		name := value("name", "ETCD_NAME")
		if name == "" {
			name = "default"
		}
		d = name + ".etcd"
	}
	if !path.IsAbs(d) {
		d = path.Join("/", dir, d)
	}
	return d
}

// environment turns NAME=value lines into a map; of two with one name the last counts.
func environment(lines []string) map[string]string {
	env := map[string]string{}
	for _, l := range lines {
		if name, value, ok := strings.Cut(l, "="); ok {
			env[name] = value
		}
	}
	return env
}
