package upgrade

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"theseus/upgrade/plan"
)

const (
	paintEvery = 500 * time.Millisecond // the table while an executor works
	sayEvery   = 2 * time.Second        // a line of waiting where there is no terminal, when it says something new
	repeat     = 30 * time.Second       // the same line again
)

// screen shows a run: as a table that is painted over itself on a terminal, as plain
// lines elsewhere, or as one JSON object a line.
type screen struct {
	mu     sync.Mutex // guards all
	w      io.Writer
	format string
	painted,
	width int
	views []view
	step  string // what is done now
	at    plan.Step
	since time.Time
	wait  string    // what it waits for
	from  time.Time // since when it waits for that
	said  time.Time // when something was last said on plain lines
	told  string    // and what
	extra func() string
	notes map[string]bool
}

// event is one line of -o json.
type event struct {
	Time    time.Time     `json:"time"`
	Event   string        `json:"event"` // step, waiting, done, failed, note, stopped or summary
	Step    string        `json:"step,omitempty"`
	Text    string        `json:"text,omitempty"`
	Seconds float64       `json:"seconds,omitempty"`
	Members []memberEvent `json:"members,omitempty"`
	Summary *Summary      `json:"summary,omitempty"`
	Stop    *Stop         `json:"stop,omitempty"`
}

type memberEvent struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Role    string `json:"role"`
	Lag     int64  `json:"lag"`
	State   string `json:"state"`
}

func newScreen(w io.Writer, format string) *screen {
	if w == nil {
		w = io.Discard
	}
	s := &screen{w: w, format: format, width: 120, notes: map[string]bool{}}
	if f, ok := w.(*os.File); ok {
		size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
		if err == nil && size.Col > 20 {
			s.width = int(size.Col)
		}
	}
	return s
}

// isTerminal says whether a table can be painted on w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil && os.Getenv("TERM") != "dumb"
}

// put writes what is shown. A terminal that went away must not stop a run.
func (s *screen) put(text string) { _, _ = io.WriteString(s.w, text) }

func (s *screen) json(e event) {
	e.Time = time.Now().UTC().Truncate(time.Millisecond)
	b, err := json.Marshal(e)
	if err == nil {
		s.put(string(b) + "\n")
	}
}

func (s *screen) begin(st plan.Step, n, of int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = st
	s.step, s.since, s.wait = fmt.Sprintf("[%d/%d] %s", n, of, title(st)), time.Now(), ""
	switch s.format {
	case "json":
		s.json(event{Event: "step", Step: st.ID, Text: st.Why})
	case "live":
		s.paint()
	}
}

// title is a step for people.
func title(s plan.Step) string {
	parts := []string{string(s.Kind)}
	for _, p := range []string{s.Member, s.Version} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, " ")
}

func (s *screen) end(st plan.Step, detail string, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.format == "json" {
		s.json(event{Event: "done", Step: st.ID, Text: detail, Seconds: took.Round(time.Millisecond).Seconds()})
		return
	}
	s.line(fmt.Sprintf("ok    %-24s %6.1fs  %s", s.step, took.Seconds(), detail))
}

func (s *screen) failed(st plan.Step, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.format == "json" {
		s.json(event{Event: "failed", Step: st.ID, Text: oneLine(err)})
		return
	}
	s.line(fmt.Sprintf("FAIL  %-24s %6.1fs  %s", s.step, time.Since(s.since).Seconds(), oneLine(err)))
}

// note says something once.
func (s *screen) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if s.notes[text] {
		return
	}
	s.notes[text] = true
	if s.format == "json" {
		s.json(event{Event: "note", Text: text})
		return
	}
	s.line("      " + text)
}

// waiting says what the step waits for.
func (s *screen) waiting(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := format
	if len(args) > 0 {
		text = fmt.Sprintf(format, args...)
	}
	if text != s.wait {
		s.wait, s.from = text, time.Now()
	}
	if s.format == "live" {
		s.paint()
		return
	}
	if time.Since(s.since) < sayEvery || time.Since(s.said) < sayEvery || text == s.told && time.Since(s.said) < repeat {
		return
	}
	s.said, s.told = time.Now(), text
	if s.format == "json" {
		s.json(event{Event: "waiting", Text: text, Seconds: time.Since(s.from).Round(time.Millisecond).Seconds(), Members: memberEvents(s.views)})
		return
	}
	s.line(fmt.Sprintf("      %s: waits since %s: %s", s.step, short(time.Since(s.since)), text))
}

// table takes what the members said.
func (s *screen) table(views []view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.views = views
	if s.format == "live" {
		s.paint()
	}
}

// line writes one line above the table.
func (s *screen) line(text string) {
	s.erase()
	s.put(text + "\n")
	if s.format == "live" {
		s.paint()
	}
}

// clear takes the table away, for a question or for good.
func (s *screen) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
}

func (s *screen) close() { s.clear() }

func (s *screen) erase() {
	if s.painted > 0 {
		s.put(fmt.Sprintf("\x1b[%dA\x1b[J", s.painted))
		s.painted = 0
	}
}

func (s *screen) paint() {
	lines := s.render()
	s.erase()
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(cut(l, s.width-1) + "\n")
	}
	s.put(b.String())
	s.painted = len(lines)
}

func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

// render is the table and what stands below it.
func (s *screen) render() []string {
	lines := append([]string{""}, memberTable(s.views, s.at)...)
	if s.step != "" {
		text := s.step + "  " + short(time.Since(s.since))
		if s.wait != "" {
			text += "  waits since " + short(time.Since(s.from)) + ": " + s.wait
		}
		lines = append(lines, "", text)
	}
	if s.extra != nil {
		if text := s.extra(); text != "" {
			lines = append(lines, text)
		}
	}
	return lines
}

// doing is what happens to the member of a step.
var doing = map[plan.Kind]string{plan.Stop: "is being stopped", plan.Swap: "gets its program", plan.Start: "is being started", plan.Ready: "gets ready",
	plan.MoveLeader: "hands the leadership over"}

// memberTable is a line a member; at is the step that is being done.
func memberTable(views []view, at plan.Step) []string {
	rows := [][]string{{"MEMBER", "VERSION", "CLUSTER", "ROLE", "LAG", "STATE"}}
	for i, e := range memberEvents(views) {
		cluster := "?"
		if !views[i].Cluster.IsZero() {
			cluster = views[i].Cluster.MinorString()
		}
		lag := "?"
		if e.Lag >= 0 {
			lag = fmt.Sprint(e.Lag)
		}
		if text := doing[at.Kind]; text != "" && e.Name == at.Member {
			e.State = text
		}
		rows = append(rows, []string{e.Name, e.Version, cluster, e.Role, lag, e.State})
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var out []string
	for _, row := range rows {
		var b strings.Builder
		for i, c := range row {
			fmt.Fprintf(&b, "%-*s  ", widths[i], c)
		}
		out = append(out, strings.TrimRight(b.String(), " "))
	}
	return out
}

// memberEvents are the members as a table shows them. A lag of -1 is not known.
func memberEvents(views []view) (out []memberEvent) {
	lead, ok := leaderOf(views)
	for _, v := range views {
		e := memberEvent{Name: v.Name, Version: versionOf(v), Role: "follower", Lag: -1, State: "healthy"}
		switch {
		case v.Err != "":
			e.Role = "?"
		case v.Learner:
			e.Role = "learner"
		case v.Leader == v.ID:
			e.Role = "leader"
		}
		if ok && v.Err == "" {
			e.Lag = max(0, int64(lead.Index)-int64(level(v)))
		}
		if text := trouble(v); text != "" {
			e.State = strings.TrimPrefix(text, v.Name+" ")
		}
		out = append(out, e)
	}
	return out
}
