package plan

import "strings"

// unit reviews a systemd unit or drop-in.
func (s *sheet) unit(text string) {
	l := &launch{}
	restart := 0
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		start := i
		line := strings.TrimSpace(lines[i])
		joined := line
		for strings.HasSuffix(line, "\\") && i+1 < len(lines) {
			i++
			line = strings.TrimSpace(lines[i])
			joined += "\n" + line
		}
		key, value, ok := strings.Cut(joined, "=")
		if !ok || strings.HasPrefix(key, "#") || strings.HasPrefix(key, ";") {
			continue
		}
		switch key = strings.TrimSpace(key); key {
		case "Restart":
			if value == "always" {
				restart = start + 1
			}
		case "KillSignal":
			if strings.Contains(value, "KILL") {
				s.add("KILL-HARD", start+1, "", "")
			}
		case "EnvironmentFile":
			s.add("NOT-UNDERSTOOD", start+1, value+" was not read", "review that file, too")
		case "Environment":
			for _, kv := range strings.Fields(value) {
				if st, ok := environment(strings.Trim(kv, `"'`), start+1); ok {
					l.settings = append(l.settings, st)
				}
			}
		case "ExecStart", "ExecStartPre", "ExecStop", "ExecStopPost", "ExecReload", "ExecStartPost":
			s.exec(l, key, strings.TrimLeft(strings.TrimSpace(value), "-+!@:"), start)
		}
	}
	if restart > 0 && s.has("DATA-REMOVED") {
		s.add("RESTART-WIPES", restart, "automatic restart around a start that wipes", "")
	}
	if len(l.settings) == 0 && l.line == 0 {
		return
	}
	if l.line == 0 { // a drop-in: what it does not set is set elsewhere
		s.hops(l, s.opt.From)
		s.values(l)
		return
	}
	l.restart = restart
	s.judge(l)
}

// exec reads one command of a unit with the shell's rules, which are near enough.
func (s *sheet) exec(l *launch, key, value string, before int) {
	if value == "" {
		return
	}
	sh, err := parseShell([]byte(value))
	if err != nil || len(sh.commands) == 0 {
		s.add("NOT-UNDERSTOOD", before+1, key+" could not be read", "")
		return
	}
	ws := unwrap(sh.commands[0].words)
	for i := range ws {
		ws[i].line += before
	}
	switch {
	case key == "ExecStart" && isEtcd(ws[0].text):
		l.line = before + 1
		l.args(s, ws[1:])
	default:
		in := s.inner(before)
		in.shellScript([]byte(value))
		for _, f := range in.found {
			if f.Line > 0 {
				s.found = append(s.found, f)
			}
		}
	}
}

// envFile reviews a file of ETCD_ variables.
func (s *sheet) envFile(text string) {
	l := &launch{line: 1}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		k, v, _ := strings.Cut(line, "=")
		if st, ok := environment(k+"="+strings.Trim(v, `"'`), i+1); ok {
			l.settings = append(l.settings, st)
		}
	}
	s.hops(l, s.opt.From)
	s.values(l)
	s.identity(l)
	s.urls(l)
}
