package plan

import (
	"path"
	"slices"
	"strings"
)

// form says where a wrapper holds the command that it runs.
type form int

const (
	asWords  form = iota // the words after its own, as they are
	asText               // the words after its own, joined and read by a shell
	inOption             // the value of an option, read by a shell
	asShell              // a shell: the text after -c, or standard input
)

// wrapper is a program that runs another command, here or elsewhere.
type wrapper struct {
	form   form
	values string // its options whose value is the next word
	skip   int    // positional arguments before the command
	text   string // options whose value is the text
	stdin  bool   // with no command it reads one from standard input
	many   bool   // runs the command again and again, for several hosts or arguments
	fed    bool   // the command gets further arguments that nobody sees here
}

const (
	dockerValues  = "-H --host -c --context --config -l --log-level --tlscacert --tlscert --tlskey"
	execValues    = "-e --env -u --user -w --workdir --detach-keys --env-file --index"
	composeValues = "-f --file -p --project-name --profile --project-directory --env-file --ansi --parallel --progress"
	kubeValues    = "-n --namespace -c --container --context --kubeconfig -s --server --as --as-group --token --user --cluster --pod-running-timeout --request-timeout -v"
)

var wrapped = map[string]wrapper{
	"sudo":     {values: "-u -g -h -p -C -r -t -T -U -D -R --user --group --host --prompt --chdir --chroot --role --type --close-from --other-user --command-timeout", stdin: true},
	"doas":     {values: "-u -C", stdin: true},
	"nice":     {values: "-n --adjustment"},
	"ionice":   {values: "-c -n -p -P -u --class --classdata"},
	"nohup":    {},
	"exec":     {values: "-a"},
	"command":  {},
	"builtin":  {},
	"env":      {values: "-u -C --unset --chdir"},
	"time":     {values: "-f -o --format --output"},
	"timeout":  {values: "-s -k --signal --kill-after", skip: 1},
	"setsid":   {},
	"stdbuf":   {values: "-i -o -e --input --output --error"},
	"chroot":   {skip: 1, stdin: true},
	"nsenter":  {values: "-t -S -G --target --setuid --setgid", stdin: true},
	"ssh":      {form: asText, values: "-B -b -c -D -E -e -F -I -i -J -L -l -m -O -o -P -p -Q -R -S -W -w", skip: 1, stdin: true},
	"watch":    {form: asText, values: "-n --interval -q --equexit"},
	"pdsh":     {form: asText, values: "-w -x -f -l -t -u -g -X -R", many: true, stdin: true},
	"clush":    {form: asText, values: "-w -x -g -X -f -l -t -u -o -O --user --fanout", many: true, stdin: true},
	"parallel": {form: asText, values: "-j --jobs -a --arg-file -S --sshlogin -I -n -N -P -L -d --joblog --results --delay --retries --timeout", many: true, fed: true, stdin: true},
	"xargs":    {values: "-I -n -P -L -d -E -s -a --max-args --max-procs --max-lines --max-chars --delimiter --arg-file", many: true, fed: true},
	"su":       {form: inOption, text: "-c --command", stdin: true},
	"runuser":  {form: inOption, text: "-c --command", stdin: true},
	"ansible":  {form: inOption, text: "-a --args", many: true},
	"bash":     {form: asShell, values: "-o +o -O +O --rcfile --init-file"},
	"sh":       {form: asShell, values: "-o +o"},
	"dash":     {form: asShell, values: "-o +o"},
	"ksh":      {form: asShell, values: "-o +o"},
	"zsh":      {form: asShell, values: "-o +o"},
}

// judged are the commands that have rules of their own.
var judged = strings.Fields("rm shred mv find rsync mkfs kill pkill killall docker podman nerdctl docker-compose kubectl systemctl service etcdctl cp tar curl etcd")

// Commands within commands are read so deep, and so many texts of them: a text
// that holds another in several places multiplies.
const (
	deepest   = 12
	mostTexts = 500
)

// takesValue says whether an option's value is the word after it.
func takesValue(values []string, t string) bool {
	if strings.HasPrefix(t, "--") || len(t) < 2 {
		return slices.Contains(values, t)
	}
	for i := 1; i < len(t); i++ { // -nu NAME has it in the next word, -p22 in this one
		if slices.Contains(values, t[:1]+t[i:i+1]) {
			return i == len(t)-1
		}
	}
	return false
}

// after drops a wrapper's own options, its assignments and its positional arguments.
func (w wrapper) after(ws []word) []word {
	values, skip, ended := strings.Fields(w.values), w.skip, false
	for len(ws) > 0 {
		t := ws[0].text
		option := !ended && len(t) > 1 && (t[0] == '-' || t[0] == '+' && w.form == asShell)
		switch {
		case t == "--" && !ended:
			ended = true
		case option:
			if takesValue(values, t) && len(ws) > 1 {
				ws = ws[1:]
			}
		case skip > 0:
			skip--
		case w.form == asWords && skip == 0 && assigns(t):
		default:
			return ws
		}
		ws = ws[1:]
	}
	return nil
}

// assigns says that a word before a command is an assignment, as env and sudo take it.
func assigns(t string) bool {
	name, _, ok := strings.Cut(t, "=")
	return ok && !strings.ContainsAny(name, "/ ${}")
}

// unwrap drops the wrappers that run their words as they are.
func unwrap(ws []word) []word {
	for len(ws) > 1 {
		w, ok := wrapped[path.Base(ws[0].text)]
		if !ok || w.form != asWords || w.fed {
			break
		}
		rest := w.after(ws[1:])
		if len(rest) == 0 {
			break
		}
		ws = rest
	}
	return ws
}

// plainEngine drops a container engine's own options, so that its command is the second word.
func plainEngine(ws []word) []word {
	if len(ws) < 2 || !slices.Contains([]string{"docker", "podman", "nerdctl"}, path.Base(ws[0].text)) {
		return ws
	}
	rest := wrapper{values: dockerValues, form: inOption}.after(ws[1:])
	if len(rest) > 1 && rest[0].text == "container" {
		rest = rest[1:]
	}
	return append([]word{ws[0]}, rest...)
}

// execOf finds what a container engine or kubectl runs in a container, and in which.
func execOf(name string, ws []word) (rest []word, in string, ok bool) {
	values := execValues
	switch name {
	case "docker", "podman", "nerdctl":
		if len(ws) > 1 && ws[0].text == "compose" {
			ws = wrapper{values: composeValues, form: inOption}.after(ws[1:])
		}
	case "docker-compose":
		ws = wrapper{values: composeValues, form: inOption}.after(ws)
	case "kubectl", "oc", "crictl":
		values = kubeValues
		ws = wrapper{values: values, form: inOption}.after(ws)
	default:
		return nil, "", false
	}
	if len(ws) == 0 || ws[0].text != "exec" {
		return nil, "", false
	}
	ws = wrapper{values: values, form: inOption}.after(ws[1:])
	if len(ws) == 0 {
		return nil, "", false
	}
	in, ws = ws[0].text, ws[1:]
	if name == "kubectl" || name == "oc" {
		ws = wrapper{values: values, form: inOption}.after(ws)
	}
	return ws, in, len(ws) > 0
}

// join makes one text of words, each on the line where it stands.
func join(ws []word) word {
	out := word{known: true, line: ws[0].line}
	var b strings.Builder
	line := out.line
	for i, w := range ws {
		if i > 0 {
			b.WriteByte(' ')
		}
		for ; line < w.line; line++ {
			b.WriteString("\\\n")
		}
		b.WriteString(w.text)
		line += strings.Count(w.text, "\n")
		out.known = out.known && w.known
	}
	out.text = b.String()
	return out
}

// readAll takes in the commands of a text, in their order, as what the command
// around it runs.
func (r *script) readAll(sh *shell, around *command, depth int) {
	for name := range sh.functions {
		r.functions[name] = true
	}
	writes := sh.writes
	noted := func(before int) {
		for len(writes) > 0 && writes[0].before <= before {
			w := writes[0]
			writes, r.order = writes[1:], r.order+1
			w.order = r.order
			r.writes = append(r.writes, w)
		}
	}
	for i, c := range sh.commands {
		noted(i)
		c.strict = sh.strict
		if around != nil {
			c.inherit(around)
		}
		r.take(c, depth)
	}
	noted(len(sh.commands))
}

// inherit gives an inner command what holds for the one that runs it.
func (c *command) inherit(around *command) {
	c.loops = append(slices.Clone(around.loops), c.loops...)
	c.cond = c.cond || around.cond
	c.background = c.background || around.background
	c.strict = c.strict || around.strict
	if around.in != "" {
		c.in = around.in
	}
	if len(c.docs) > 0 {
		return
	}
	c.docs = slices.Clone(around.docs)
	for i := range c.docs {
		if ws := unwrap(c.words); c.docs[i].name == "" && path.Base(ws[0].text) == "tee" {
			c.docs[i].name = ws[len(ws)-1].text
		}
	}
}

// take puts a command in the script's order; in place of a wrapper what it runs.
func (r *script) take(c command, depth int) {
	c.words = plainEngine(c.words)
	name := c.name()
	w, isWrapper := wrapped[name]
	rest, in, isExec := execOf(name, c.words[1:])
	if depth >= deepest && (isWrapper || isExec) {
		r.add("NOT-UNDERSTOOD", c.line, "too many commands within commands: the innermost were not read", "")
		return
	}
	switch {
	case isExec:
		c.in = in
		r.takeWords(c, rest, depth)
		return
	case !isWrapper:
		r.place(c)
		// What stands before a command may be empty, an option or sudo.
		if next := c.words[1:]; !c.words[0].known && len(next) > 0 && next[0].known && r.knows(next[0].text) {
			r.takeWords(c, next, depth)
		}
		return
	}
	if w.many {
		c.loops = append(slices.Clone(c.loops), &loop{line: c.line})
	}
	if w.fed {
		r.add("NOT-UNDERSTOOD", c.line, "what "+name+" adds to its command is known only when it runs", "")
	}
	rest = w.after(c.words[1:])
	switch {
	case w.form == asShell:
		r.takeShell(c, w, depth)
	case w.form == inOption:
		r.takeOption(c, w, depth)
	case len(rest) == 0 && w.stdin:
		r.takeInput(c, depth)
	case len(rest) == 0:
		r.place(c)
	case w.form == asText:
		if i := slices.IndexFunc(rest, func(x word) bool { return strings.HasPrefix(x.text, ":::") }); i > 0 {
			rest = rest[:i]
		}
		r.takeText(c, join(rest), depth)
	default:
		r.takeWords(c, rest, depth)
	}
}

func (r *script) knows(name string) bool {
	_, ok := wrapped[path.Base(name)]
	return ok || slices.Contains(judged, path.Base(name))
}

func (r *script) place(c command) {
	r.order++
	c.order = r.order
	r.commands = append(r.commands, c)
}

// takeWords takes words that are run as a command with no shell between.
func (r *script) takeWords(c command, ws []word, depth int) {
	c.words, c.line = ws, ws[0].line
	texts := make([]string, len(ws))
	for i, w := range ws {
		texts[i] = w.text
	}
	c.raw = strings.Join(texts, " ")
	r.take(c, depth+1)
}

// takeText takes a text that another shell reads.
func (r *script) takeText(c command, text word, depth int) {
	if r.texts++; r.texts > mostTexts {
		r.add("NOT-UNDERSTOOD", text.line, "too many commands within commands: this one was not read", "")
		return
	}
	sh, err := parseShell([]byte(text.text))
	if err != nil {
		r.addAs("NOT-UNDERSTOOD", Block, text.line, "the shell does not parse: "+err.Error(), "")
		return
	}
	if !text.known && len(sh.commands) == 1 && len(sh.commands[0].words) == 1 && !sh.commands[0].words[0].known {
		r.notRead(c)
		return
	}
	if !text.known {
		r.add("NOT-UNDERSTOOD", text.line, "a part of what "+c.name()+" runs is known only when it runs", "")
	}
	sh.shift(text.line - 1)
	r.readAll(sh, &c, depth+1)
}

func (r *script) notRead(c command) {
	r.add("REMOTE-CODE", c.line, "what "+c.name()+" runs is not known here, so it was not read", "")
}

// takeInput takes the here-document that a shell, here or elsewhere, reads.
func (r *script) takeInput(c command, depth int) {
	docs := c.docs
	c.docs = nil
	if len(docs) == 0 {
		r.notRead(c)
	}
	for _, d := range docs {
		if d.name != "" { // its output goes there
			r.order++
			r.writes = append(r.writes, write{to: word{text: d.name, known: true}, line: c.line, order: r.order})
		}
		r.takeText(c, word{text: d.text, known: d.known, line: d.before + 1}, depth)
	}
}

// takeShell takes the text after -c, or what a shell gets on its standard input.
func (r *script) takeShell(c command, w wrapper, depth int) {
	text, input := false, false
	rest := w.after(c.words[1:])
	for _, o := range c.words[1 : len(c.words)-len(rest)] {
		if short := strings.HasPrefix(o.text, "-") && !strings.HasPrefix(o.text, "--"); short {
			text = text || strings.Contains(o.text, "c")
			input = input || strings.Contains(o.text, "s")
			c.strict = c.strict || strings.Contains(o.text, "e")
		}
	}
	switch {
	case text && len(rest) > 0:
		r.takeText(c, rest[0], depth)
	case !text && (input || len(rest) == 0):
		r.takeInput(c, depth)
	default:
		r.notRead(c)
	}
}

// takeOption takes the text that is the value of an option.
func (r *script) takeOption(c command, w wrapper, depth int) {
	names := strings.Fields(w.text)
	for i, o := range c.words {
		if c.name() == "ansible" && i > 0 && slices.Contains([]string{"-m", "--module-name"}, c.words[i-1].text) &&
			!slices.Contains([]string{"shell", "command", "raw"}, strings.TrimPrefix(o.text, "ansible.builtin.")) {
			r.place(c)
			return
		}
	}
	for i, o := range c.words {
		if _, v, ok := strings.Cut(o.text, "="); ok && strings.HasPrefix(o.text, names[1]+"=") {
			r.takeText(c, word{text: v, known: o.known, line: o.line}, depth)
			return
		}
		if (o.text == names[1] || takesValue(names[:1], o.text) && strings.HasPrefix(o.text, "-")) && i+1 < len(c.words) {
			r.takeText(c, c.words[i+1], depth)
			return
		}
	}
	if w.stdin && !slices.ContainsFunc(c.words, func(o word) bool { return o.text == "-u" }) {
		r.takeInput(c, depth)
		return
	}
	r.place(c)
}
