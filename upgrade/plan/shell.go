package plan

import (
	"bytes"
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// word is one word of a command after its constants were put in.
type word struct {
	text  string // what is not constant stands as it was written
	known bool
	line  int
}

// command is one simple command and where it stands.
type command struct {
	words      []word
	line       int
	order      int     // where it stands among all, also those that others run
	loops      []*loop // the loops around it, outermost first
	strict     bool    // its script stops at a failure
	in         string  // the container that it runs in
	cond       bool
	background bool
	raw        string // as written, with its substitutions
	docs       []document
}

// loop is one loop of a script.
type loop struct{ line int }

// document is a here-document that a command writes to a file.
type document struct {
	name, text string
	before     int
	known      bool
}

func (c *command) name() string { return path.Base(c.words[0].text) }

func (c *command) has(texts ...string) bool {
	for _, w := range c.words {
		for _, t := range texts {
			if w.text == t {
				return true
			}
		}
	}
	return false
}

// write is a file that something is redirected to, with no here-document beside it.
type write struct {
	to     word
	line   int
	before int // how many commands stand before it
	order  int
}

// shell is one parsed script.
type shell struct {
	writes   []write
	vars     map[string]word
	assigned map[string]int
	commands []command
	printer  *syntax.Printer
	strict   bool
	loops    map[syntax.Node]*loop
	// functions are declared here, so that their bodies were read.
	functions map[string]bool
}

// parseShell reads a script into its simple commands, in the order of the text.
func parseShell(text []byte) (*shell, error) {
	f, err := syntax.NewParser(syntax.KeepComments(false)).Parse(bytes.NewReader(text), "")
	if err != nil {
		return nil, err
	}
	sh := &shell{vars: map[string]word{}, assigned: map[string]int{}, printer: syntax.NewPrinter(), functions: map[string]bool{}, loops: map[syntax.Node]*loop{}}
	syntax.Walk(f, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.Assign:
			if n.Name != nil && !n.Naked {
				sh.assigned[n.Name.Value]++
			}
		case *syntax.FuncDecl:
			if n.Name != nil {
				sh.functions[n.Name.Value] = true
			}
		case *syntax.WordIter:
			sh.assigned[n.Name.Value] += 2
		}
		return true
	})
	var stack []syntax.Node
	syntax.Walk(f, func(n syntax.Node) bool {
		if n == nil {
			stack = stack[:len(stack)-1]
			return true
		}
		switch n := n.(type) {
		case *syntax.Assign:
			sh.assign(n)
		case *syntax.CallExpr:
			sh.call(n, stack)
		case *syntax.Stmt:
			sh.redirections(n)
		}
		stack = append(stack, n)
		return true
	})
	return sh, nil
}

func (sh *shell) assign(a *syntax.Assign) {
	if a.Name == nil || a.Naked || a.Value == nil || a.Append || a.Array != nil || sh.assigned[a.Name.Value] != 1 {
		return
	}
	if w := sh.eval(a.Value); w.known {
		sh.vars[a.Name.Value] = w
	}
}

func (sh *shell) call(n *syntax.CallExpr, stack []syntax.Node) {
	if len(n.Args) == 0 {
		return
	}
	c := command{line: int(n.Pos().Line()), raw: sh.source(n)}
	for _, a := range n.Args {
		w := sh.eval(a)
		if strings.Contains(w.text, " ") && len(a.Parts) == 1 && w.known {
			if _, bare := a.Parts[0].(*syntax.ParamExp); bare { // an unquoted variable is split
				for _, t := range strings.Fields(w.text) {
					c.words = append(c.words, word{t, true, w.line})
				}
				continue
			}
		}
		c.words = append(c.words, w)
	}
	if len(c.words) == 0 { // all of it was a variable that holds blanks only
		return
	}
	for i, p := range stack {
		switch p := p.(type) {
		case *syntax.ForClause:
			c.loops = append(c.loops, sh.loop(p))
		case *syntax.WhileClause:
			c.loops, c.cond = append(c.loops, sh.loop(p)), true
		case *syntax.IfClause:
			c.cond = true
		case *syntax.BinaryCmd:
			c.cond = c.cond || p.Op == syntax.OrStmt
		case *syntax.Stmt:
			c.background = c.background || p.Background
			if i == len(stack)-1 {
				c.docs = sh.documents(p)
			}
		}
	}
	if c.words[0].text == "set" && len(c.words) > 1 && strings.Contains(c.words[1].text, "e") {
		sh.strict = true
	}
	sh.commands = append(sh.commands, c)
}

// loop is the one of a node, the same for all its commands.
func (sh *shell) loop(n syntax.Node) *loop {
	if sh.loops[n] == nil {
		sh.loops[n] = &loop{int(n.Pos().Line())}
	}
	return sh.loops[n]
}

// shift moves a script n lines down: it stands within another.
func (sh *shell) shift(n int) {
	for i := range sh.commands {
		c := &sh.commands[i]
		c.line += n
		for j := range c.words {
			c.words[j].line += n
		}
		for j := range c.docs {
			c.docs[j].before += n
		}
	}
	for i := range sh.writes {
		sh.writes[i].line += n
	}
	for _, l := range sh.loops {
		l.line += n
	}
}

func (sh *shell) documents(p *syntax.Stmt) (out []document) {
	var to, text string
	before, known := 0, true
	for _, r := range p.Redirs {
		if r.Hdoc != nil {
			w := sh.eval(r.Hdoc)
			text, known, before = w.text, w.known, int(r.Hdoc.Pos().Line())-1
		} else if r.Word != nil && (r.Op == syntax.RdrOut || r.Op == syntax.AppOut) {
			to = sh.eval(r.Word).text
		}
	}
	for _, w := range sh.lastTee(p) {
		to = w
	}
	if text != "" {
		out = append(out, document{to, text, before, known})
	}
	return out
}

// redirections notes the files that a statement writes, if no here-document goes there.
func (sh *shell) redirections(p *syntax.Stmt) {
	if slices.ContainsFunc(p.Redirs, func(r *syntax.Redirect) bool { return r.Hdoc != nil }) {
		return
	}
	for _, r := range p.Redirs {
		switch r.Op {
		case syntax.RdrOut, syntax.AppOut, syntax.RdrClob, syntax.RdrAll, syntax.AppAll, syntax.RdrInOut:
			sh.writes = append(sh.writes, write{to: sh.eval(r.Word), line: int(r.Pos().Line()), before: len(sh.commands)})
		}
	}
}

// lastTee is the file that tee writes, also behind sudo.
func (sh *shell) lastTee(p *syntax.Stmt) []string {
	c, ok := p.Cmd.(*syntax.CallExpr)
	if !ok {
		return nil
	}
	for i, a := range c.Args {
		if last := len(c.Args) - 1; i < last && path.Base(sh.eval(a).text) == "tee" {
			return []string{sh.eval(c.Args[last]).text}
		}
	}
	return nil
}

func (sh *shell) source(n syntax.Node) string {
	var b bytes.Buffer
	_ = sh.printer.Print(&b, n) // a node we cannot print is matched by nothing
	return b.String()
}

func (sh *shell) eval(w *syntax.Word) word {
	out := word{known: true, line: int(w.Pos().Line())}
	var b strings.Builder
	for _, p := range w.Parts {
		sh.part(&b, p, &out.known)
	}
	out.text = b.String()
	if len(out.text) > maxWord { // variables of variables double with each line
		out.text, out.known = out.text[:maxWord], false
	}
	return out
}

// maxWord bounds one word with its variables filled in, in bytes.
const maxWord = 64 << 10

func (sh *shell) part(b *strings.Builder, p syntax.WordPart, known *bool) {
	switch p := p.(type) {
	case *syntax.Lit:
		b.WriteString(strings.ReplaceAll(strings.ReplaceAll(p.Value, "\\\n", ""), `\`, ""))
	case *syntax.SglQuoted:
		b.WriteString(p.Value)
	case *syntax.DblQuoted:
		for _, q := range p.Parts {
			sh.part(b, q, known)
		}
	case *syntax.ParamExp:
		plain := p.Exp == nil && p.Repl == nil && p.Slice == nil && p.Index == nil && !p.Length && !p.Excl && p.Param != nil
		if plain {
			if v, ok := sh.vars[p.Param.Value]; ok {
				b.WriteString(v.text)
				return
			}
		}
		*known = false
		if p.Exp != nil && p.Exp.Word != nil && p.Exp.Op == syntax.DefaultUnsetOrNull {
			b.WriteString(sh.eval(p.Exp.Word).text)
			return
		}
		b.WriteString(sh.source(p))
	default:
		*known = false
		b.WriteString(sh.source(p))
	}
}
