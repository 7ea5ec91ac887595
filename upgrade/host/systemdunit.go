package host

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// unitValues returns the values of key in section of a unit file, in order. An empty
// value is kept: it takes back what stood before. A line that ends in a backslash goes
// on in the next one, with comments in between passed over, as systemd reads it.
func unitValues(text, section, key string) []string {
	var values []string
	var joined strings.Builder
	in := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if t := strings.TrimLeft(line, " \t"); strings.HasPrefix(t, "#") || strings.HasPrefix(t, ";") {
			continue
		}
		if before, ok := strings.CutSuffix(line, `\`); ok {
			joined.WriteString(before + " ")
			continue
		}
		line = strings.TrimSpace(joined.String() + line)
		joined.Reset()
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			in = line[1 : len(line)-1]
			continue
		}
		if k, v, ok := strings.Cut(line, "="); ok && in == section && strings.TrimSpace(k) == key {
			values = append(values, strings.TrimSpace(v))
		}
	}
	return values
}

// execStart returns the one command that the files start, the unit file first and its
// drop-ins in systemd's order, exactly as it is written there.
func execStart(files []string) (string, error) {
	var commands []string
	for _, f := range files {
		for _, v := range unitValues(f, "Service", "ExecStart") {
			if v == "" {
				commands = nil
				continue
			}
			commands = append(commands, v)
		}
	}
	if len(commands) != 1 {
		return "", fmt.Errorf("the unit has %d ExecStart commands: leave the member's one alone in it", len(commands))
	}
	return commands[0], nil
}

// errQuote is an ExecStart that systemd would not take either.
var errQuote = errors.New("a quote is not closed, or a backslash is followed by a letter that means nothing")

// unitWord cuts the first word off s, by systemd's rules: words end at white space,
// both quotes may stand anywhere in one, and backslashes escape as in C.
func unitWord(s string) (word, rest string, err error) {
	s = strings.TrimLeft(s, " \t\n\r")
	var b strings.Builder
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			text, n, err := unescape(s[i+1:])
			if err != nil {
				return "", "", err
			}
			b.WriteString(text)
			i += n
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case quote == 0 && strings.IndexByte(" \t\n\r", c) >= 0:
			return b.String(), strings.TrimLeft(s[i:], " \t\n\r"), nil
		default:
			b.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", "", errQuote
	}
	return b.String(), "", nil
}

// unescape reads what follows a backslash and returns how long it is.
func unescape(s string) (text string, n int, err error) {
	if s == "" {
		return "", 0, errQuote
	}
	if i := strings.IndexByte(`abfnrtv\"'s`, s[0]); i >= 0 {
		return "\a\b\f\n\r\t\v\\\"' "[i : i+1], 1, nil
	}
	base, from, width, bits := 16, 1, 0, 8
	switch s[0] {
	case 'x':
		width = 2
	case 'u':
		width, bits = 4, 32
	case 'U':
		width, bits = 8, 32
	case '0', '1', '2', '3':
		base, from, width = 8, 0, 3
	default:
		return "", 0, errQuote
	}
	if len(s) < from+width {
		return "", 0, errQuote
	}
	v, err := strconv.ParseUint(s[from:from+width], base, bits)
	if err != nil || v == 0 {
		return "", 0, errQuote
	}
	if bits == 8 {
		return string([]byte{byte(v)}), from + width, nil
	}
	return string(rune(v)), from + width, nil
}

// unitWords splits s into its words.
func unitWords(s string) ([]string, error) {
	var words []string
	for s = strings.TrimLeft(s, " \t\n\r"); s != ""; {
		word, rest, err := unitWord(s)
		if err != nil {
			return nil, err
		}
		words, s = append(words, word), rest
	}
	return words, nil
}

// unitQuote writes a word so that systemd reads it, and no specifier in it.
func unitQuote(word string) string {
	word = strings.ReplaceAll(word, "%", "%%")
	if word != "" && !strings.ContainsAny(word, " \t\r\n\\\"';") {
		return word
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\r", `\r`).Replace(word) + `"`
}

// execLine is one command of a unit, taken apart so far that its program can be
// changed and every other byte kept: specifiers and variables stay as they were written.
type execLine struct {
	flags   string // systemd's, without @
	program string // what is run, as read
	rest    string // what follows it, verbatim
	// A program within the words of a shell, as in `sh -c "exec /usr/bin/etcd …"`: its
	// place in rest. to is 0 if there is none.
	from, to int
}

// innerProgram finds a member's program in a shell's words, with the word serve if it
// has one.
var innerProgram = regexp.MustCompile(`(^|[\s"'=;&(])(/[\w.+@/-]*/(?:etcd|theseus)[\w.+-]*)(\s+serve\b)?`)

// wrappers run another program that stands in their arguments.
var wrappers = []string{"sh", "bash", "dash", "ksh", "zsh", "env", "nice", "ionice", "chrt", "taskset", "numactl", "setpriv", "runuser", "exec"}

// engines run a container, which has an executor of its own.
var engines = []string{"docker", "podman", "rkt", "nerdctl", "ctr", "runc", "systemd-nspawn"}

// parseExec reads the value of an ExecStart.
func parseExec(raw string) (execLine, error) {
	var e execLine
	command := strings.TrimLeft(raw, "@-:+!|")
	flags := raw[:len(raw)-len(command)]
	e.flags = strings.ReplaceAll(flags, "@", "")
	var err error
	if e.program, e.rest, err = unitWord(command); err != nil {
		return e, fmt.Errorf("read ExecStart=%s: %w", clip(raw), err)
	}
	if strings.Contains(flags, "@") {
		if _, e.rest, err = unitWord(e.rest); err != nil {
			return e, fmt.Errorf("read ExecStart=%s: %w", clip(raw), err)
		}
	}
	args, err := unitWords(e.rest)
	if err != nil {
		return e, fmt.Errorf("read ExecStart=%s: %w", clip(raw), err)
	}
	name := path.Base(e.program)
	switch {
	case e.program == "" || strings.ContainsAny(name, "$"):
		return e, fmt.Errorf("read ExecStart=%s: the program is not named: write its path", clip(raw))
	case hasItem(args, ";"):
		return e, fmt.Errorf("read ExecStart=%s: it has several commands: leave the member's one alone in it", clip(raw))
	case hasItem(engines, name):
		return e, fmt.Errorf("the unit runs %s: the member is in a container: write host.kind docker and its name", name)
	case hasItem(wrappers, name):
		found := innerProgram.FindAllStringSubmatchIndex(e.rest, -1)
		if len(found) != 1 || len(innerProgram.FindAllString(args[len(args)-1], -1)) != 1 {
			return e, fmt.Errorf("the unit runs the member through %s, and its program is named %d times in ExecStart=%s: start the program itself there", name, len(found), clip(raw))
		}
		e.from, e.to = found[0][4], max(found[0][5], found[0][7])
	case args != nil && args[0] == serveWord:
		_, e.rest, _ = unitWord(e.rest)
	}
	return e, nil
}

func hasItem(list []string, item string) bool {
	for _, l := range list {
		if l == item {
			return true
		}
	}
	return false
}

// member returns the program that is the member.
func (e execLine) member() string {
	if e.to == 0 {
		return e.program
	}
	name, _, _ := strings.Cut(e.rest[e.from:e.to], " ")
	return strings.TrimSpace(name)
}

var plainPath = regexp.MustCompile(`^/[\w.+@/-]+$`)

// with returns the command with another program. One that wants words of its own
// before a member's arguments is called by the name etcd instead, which takes them as
// they are; where a shell calls it, the words stand after its path.
func (e execLine) with(program string, words []string) (string, error) {
	if e.to != 0 {
		if !plainPath.MatchString(program) {
			return "", fmt.Errorf("program %q: the unit calls it through a shell: choose a path of plain letters", program)
		}
		command := e.flags + unitQuote(e.program) + " " + e.rest[:e.from] + strings.Join(append([]string{program}, words...), " ") + e.rest[e.to:]
		// Quotes of a shell within quotes of systemd: what comes out is read once more.
		again, err := parseExec(command)
		if err != nil || again.member() != program || !slices.Equal(again.args("", nil), e.args("", nil)) {
			return "", fmt.Errorf("the unit runs the member through %s in a way that cannot be edited safely: start the program itself in ExecStart", e.program)
		}
		return command, nil
	}
	command := e.flags + unitQuote(program)
	if len(words) > 0 {
		command = "@" + command + " etcd"
	}
	if e.rest != "" {
		command += " " + e.rest
	}
	return command, nil
}

// args returns the member's arguments, with what is known of variables and specifiers put in.
func (e execLine) args(unit string, env map[string]string) []string {
	rest := e.rest
	if e.to != 0 {
		outer, err := unitWords(rest)
		if err != nil {
			return nil
		}
		rest = outer[len(outer)-1]
		if at := innerProgram.FindStringIndex(rest); at != nil {
			rest = rest[at[1]:]
		}
	}
	words, err := unitWords(rest)
	if err != nil {
		return nil
	}
	var args []string
	for _, w := range words {
		w = specifiers(w, unit)
		if name, ok := strings.CutPrefix(w, "$"); ok && wholeVariable.MatchString(name) {
			args = append(args, strings.Fields(env[name])...)
			continue
		}
		args = append(args, variable.ReplaceAllStringFunc(w, func(v string) string {
			if v == "$$" {
				return "$"
			}
			return env[v[2:len(v)-1]]
		}))
	}
	return memberArgs(args)
}

var (
	wholeVariable = regexp.MustCompile(`^[A-Za-z_]\w*$`)
	variable      = regexp.MustCompile(`\$\$|\$\{[A-Za-z_]\w*\}`)
)

// specifiers puts in what can be told from the unit's name; others stay as they are.
func specifiers(s, unit string) string {
	prefix := strings.TrimSuffix(unit, ".service")
	instance := ""
	if p, i, ok := strings.Cut(prefix, "@"); ok {
		prefix, instance = p, i
	}
	return strings.NewReplacer("%%", "%", "%i", instance, "%p", prefix, "%n", unit, "%N", strings.TrimSuffix(unit, ".service")).Replace(s)
}

// dropIn is the whole of what the swap writes.
func dropIn(command string) string {
	return "# Written by theseus upgrade: the member's program, and nothing else, is another than\n" +
		"# the unit's. Without this file and after systemctl daemon-reload it is the unit's again.\n" +
		"[Service]\nExecStart=\nExecStart=" + command + "\n"
}

// parseShow reads NAME=value lines of systemctl show. A name that stands twice has its
// values joined by line ends.
func parseShow(out string) map[string]string {
	show := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, ok := strings.Cut(strings.TrimRight(line, "\n"), "=")
		if !ok {
			continue
		}
		if old, twice := show[name]; twice {
			value = old + "\n" + value
		}
		show[name] = value
	}
	return show
}

// shownPath returns the path of the first command in a shown ExecStart.
func shownPath(value string) string {
	_, after, ok := strings.Cut(value, "{ path=")
	if !ok {
		return ""
	}
	p, _, _ := strings.Cut(after, " ;")
	return p
}

// environmentFiles returns the files of a shown EnvironmentFiles, without what follows
// them in parentheses.
func environmentFiles(value string) []string {
	var files []string
	for line := range strings.Lines(value) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " (ignore_errors=")
		if name != "" {
			files = append(files, name)
		}
	}
	return files
}

// environmentFile reads NAME=value lines as systemd does: comments, quotes around a
// value, and a backslash at the end of a line.
func environmentFile(text string) []string {
	var env []string
	text = strings.ReplaceAll(text, "\\\n", "")
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		value = strings.TrimSpace(value)
		if strings.ContainsAny(value, `"'\`) {
			value = unquoteValue(value)
		}
		env = append(env, strings.TrimSpace(strings.TrimPrefix(name, "export "))+"="+value)
	}
	return env
}

// unquoteValue takes quotes off as a shell would, and expands nothing.
func unquoteValue(s string) string {
	var b strings.Builder
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quote != '\'' && i+1 < len(s):
			i++
			if quote == '"' && strings.IndexByte("\"\\`$", s[i]) < 0 {
				b.WriteByte('\\')
			}
			b.WriteByte(s[i])
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
