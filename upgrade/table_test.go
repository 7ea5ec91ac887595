package upgrade

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"theseus/upgrade/plan"
)

func tableViews() []view {
	f := newFake(3, "/etcd-3.4")
	f.member("m2").program, f.member("m3").running = "/theseus", false
	var views []view
	for _, m := range f.members {
		views = append(views, f.look(context.Background(), m.name))
	}
	return views
}

func TestMemberTable(t *testing.T) {
	got := strings.Join(memberTable(tableViews(), plan.Step{Kind: plan.Swap, Member: "m3"}), "\n")
	want := `MEMBER  VERSION          CLUSTER  ROLE      LAG  STATE
m1      3.4.45           3.4      leader    0    healthy
m2      Theseus 1 (3.7)  3.4      follower  0    healthy
m3      ?                ?        ?         ?    gets its program`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestScreen holds the three ways to show a run against each other: a table that is
// painted over, plain lines that do not flood a log, and one JSON object a line.
func TestScreen(t *testing.T) {
	show := func(format string) string {
		var out bytes.Buffer
		synctest.Test(t, func(t *testing.T) {
			s := newScreen(&out, format)
			st := plan.Step{ID: "06-m2-stop", Kind: plan.Stop, Member: "m2", Why: "why"}
			s.table(tableViews())
			s.begin(st, 6, 21)
			for range 100 {
				s.waiting("m2 %s", "ends")
				time.Sleep(100 * time.Millisecond)
			}
			s.note("said once")
			s.note("said once")
			s.end(st, "ended", time.Second)
			s.failed(st, errors.New("no"))
			s.close()
		})
		return out.String()
	}
	text := show("text")
	if n := strings.Count(text, "waits since"); n != 1 || strings.Count(text, "said once") != 1 || strings.Contains(text, "\x1b") {
		t.Errorf("plain lines, waiting %d times:\n%s", n, text)
	}
	if !strings.Contains(text, "ok    [6/21] stop m2") || !strings.Contains(text, "FAIL  [6/21] stop m2") {
		t.Error(text)
	}
	live := show("live")
	if frame := live[strings.LastIndex(live, "\x1b[J"):]; strings.Contains(frame, "MEMBER") {
		t.Errorf("the table is left behind: %q", frame)
	}
	if !strings.Contains(live, "m2 ends") || !strings.Contains(live, "is being stopped") {
		t.Error(live[:min(len(live), 2000)])
	}
	for line := range strings.Lines(show("json")) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Event == "" {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestExplain(t *testing.T) {
	lines := []string{
		`raft2026/11/21 13:20:26 INFO: raft.node: fd01 lost leader c22f at term 4`,
		`W | etcdserver: failed to reach the peerURL(http://127.0.0.1:2380) of member 72`,
		`W | rafthttp: lost the TCP streaming connection with peer 72`,
		`{"level":"warn","msg":"prober detected unhealthy status"}`,
		`{"level":"warn","msg":"leader found higher-versioned member"}`,
		`{"level":"info","msg":"Cluster version downgrade detected, forcing snapshot"}`,
		`I | mvcc: restore compact to 7`,
	}
	got := explain(lines)
	if len(got) != 6 {
		t.Errorf("explained %d: %q", len(got), got)
	}
	if rest := since([]string{"a", "b", "c"}, "b"); len(rest) != 1 || rest[0] != "c" {
		t.Errorf("since: %q", rest)
	}
}

// TestVerbs holds the verbs' ways to fail against their exit codes.
func TestVerbs(t *testing.T) {
	for _, verb := range []string{"apply", "rollback", "status"} {
		for _, c := range []struct {
			args string
			code int
		}{{"--help", 0}, {"-o xml", 2}, {"more", 2}, {"--nosuch", 2}, {"-f nosuch.yaml", 1}} {
			var out, errs bytes.Buffer
			if code := Main(append([]string{verb}, strings.Fields(c.args)...), &out, &errs); code != c.code {
				t.Errorf("%s %s: code %d, want %d: %s%s", verb, c.args, code, c.code, out.String(), errs.String())
			}
		}
	}
}

// TestStop_message keeps what a person reads at night short and whole.
func TestStop_message(t *testing.T) {
	s := &Stop{Step: "09-s2-ready", What: "s2 ended right after its start", Seen: []string{"panic: x", "goroutine 1"}, Undid: "s2 runs what it ran before, and is well",
		State: "s1 3.4.23, s2 3.4.23", Next: "theseus upgrade apply -f up.yaml"}
	want := `failed:  09-s2-ready
why:     s2 ended right after its start
log:     panic: x
         goroutine 1
undone:  s2 runs what it ran before, and is well
now:     s1 3.4.23, s2 3.4.23
next:    theseus upgrade apply -f up.yaml
`
	if diff := cmp.Diff(want, s.Message()); diff != "" {
		t.Error(diff)
	}
}
