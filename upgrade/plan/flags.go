package plan

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	"theseus/version"
)

//go:embed flags.tsv
var flagText string

// Flag is the history of one flag of etcd, 3.1 to 3.7. Minors are 3.x.
type Flag struct {
	Name, Kind string
	Since      int
	Until      int // the last minor that has it; 0: 3.7 still has it
	Instead    string
}

// Flags is the flag history by name.
var Flags = parseFlags(flagText)

func parseFlags(text string) map[string]Flag {
	m := map[string]Flag{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		c := strings.Split(strings.TrimSpace(line), "\t")
		since, err1 := strconv.Atoi(c[2])
		until, err2 := strconv.Atoi(c[3])
		if len(c) != 5 || err1 != nil || err2 != nil {
			panic("flags.tsv: bad line " + line)
		}
		m[c[0]] = Flag{c[0], c[1], since, until, c[4]}
	}
	return m
}

// changes are the defaults that differ between two minors.
var changes = []struct {
	flag    string
	minor   int
	was, is string
}{
	{"snapshot-count", 2, "10000", "100000"},
	{"enable-v2", 4, "true", "false"},
	{"cors", 4, "none", "*"},
	{"pre-vote", 5, "false", "true"},
	{"logger", 5, "capnslog", "zap (JSON lines)"},
	{"snapshot-count", 6, "100000", "10000"},
	{"discovery-fallback", 6, "proxy", "exit"},
}

// source is where a setting comes from: each treats a removed name differently.
type source int

const (
	byFlag source = iota
	byEnv
	byFile
)

// setting is one flag, variable or key with its value.
type setting struct {
	name, value string
	known       bool // the value holds no variable that could not be resolved
	line        int
	from        source
}

func hop(minor int) string { return fmt.Sprintf("3.%d", minor) }

// hops checks every setting against every minor from the running to the target.
func (s *sheet) hops(l *launch, from version.Version) {
	to := s.opt.to()
	for _, st := range l.settings {
		f, ok := Flags[st.name]
		if !ok {
			s.unknownFlag(st)
			continue
		}
		switch {
		case f.Until > 0 && to.Minor > f.Until:
			s.removedFlag(st, f)
		case f.Since > to.Minor:
			s.add("FLAG-TOO-NEW", st.line, fmt.Sprintf("--%s exists since %s, the target %s refuses it", st.name, hop(f.Since), to.MinorString()), "take it out until the target has it")
		case !from.IsZero() && from.Minor < f.Since && st.from == byFlag:
			s.addAs("FLAG-TOO-NEW", Info, st.line, fmt.Sprintf("--%s exists since %s: a way back to %s does not start with it", st.name, hop(f.Since), from.MinorString()), "")
		}
		if f.Until == 0 && strings.HasPrefix(f.Instead, "nothing: accepted") {
			s.add("FLAG-DEPRECATED", st.line, "--"+st.name+" is accepted and ignored", "")
		}
	}
	if from.IsZero() {
		return
	}
	for _, c := range changes {
		if _, set := l.get(c.flag); !set && c.minor > from.Minor && c.minor <= to.Minor {
			s.add("DEFAULT-CHANGED", l.line, fmt.Sprintf("--%s is not set; its default changes from %s to %s in %s", c.flag, c.was, c.is, hop(c.minor)), "")
		}
	}
}

func (s *sheet) unknownFlag(st setting) {
	switch st.from {
	case byFlag:
		s.add("FLAG-UNKNOWN", st.line, fmt.Sprintf("flag provided but not defined: -%s; the member ends with code 2", st.name), "")
	case byEnv:
		s.addAs("FLAG-UNKNOWN", Warn, st.line, fmt.Sprintf("no etcd reads the variable for --%s; it is only warned of", st.name), "")
	default:
		s.addAs("FLAG-UNKNOWN", Warn, st.line, fmt.Sprintf("no etcd knows the key %s; it is ignored without a word", st.name), "")
	}
}

func (s *sheet) removedFlag(st setting, f Flag) {
	gone := hop(f.Until + 1)
	mend := "write " + f.Instead
	if rest, ok := strings.CutPrefix(f.Instead, "nothing: "); ok {
		mend = "take it out: " + rest
	}
	switch st.from {
	case byFlag:
		s.add("FLAG-REMOVED", st.line, fmt.Sprintf("--%s is gone in %s: the member does not start (code 2)", st.name, gone), mend)
	case byEnv:
		s.addAs("FLAG-REMOVED", Warn, st.line, fmt.Sprintf("the variable for --%s is gone in %s: it is only warned of, and does nothing", st.name, gone), mend)
	default:
		s.addAs("FLAG-REMOVED", Warn, st.line, fmt.Sprintf("%s is gone in %s: the key is ignored without a word", st.name, gone), mend)
	}
}
