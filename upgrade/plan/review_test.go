package plan

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rewriting says that the golden files are to be written anew, by datadriven's flag.
func rewriting() bool { return flag.Lookup("rewrite").Value.String() == "true" }

var expectLine = regexp.MustCompile(`^(\d+|whole file)(-\d+)?: (.*)$`)

// same says whether a code is one that answers the words of an expectation.
var same = []struct{ words, codes string }{
	{"broad kill", "KILL-BROAD"}, {"v2 backup only", "BACKUP-V2"}, {"no --data-dir", "DATA-DEFAULT"},
	{"on 127.0.0.1", "URL-LOOPBACK"}, {"in the background", "BACKGROUND"}, {"--ca-file is", "ETCDCTL-V2"},
	{"must be a string", "FLAG-TYPE"}, {"is gone in 3", "FLAG-REMOVED"}, {"no peer-transport-security", "TLS-MISSING"},
	{"patch floor", "PATCH-FLOOR"}, {"stopped with no backup", "STOP-UNGUARDED"}, {"container is removed", "CONTAINER-REMOVED"},
	{"says that it is new", "DATA-MOVED"}, {"version jump not checked", "VERSION-UNCHECKED"}, {"the same --name", "NAME-CONSTANT"},
	{"is never used", "CLUSTER-LITERAL"}, {"auto TLS flags", "TLS-IGNORED"}, {"cluster-health is", "ETCDCTL-V2"},
	{"nothing waits", "GATE-NONE"}, {"removed by force", "CONTAINER-FORCED"}, {"data directory of the member removed", "DATA-REMOVED"},
	{"restart=always around", "RESTART-WIPES"}, {"another version put", "VERSION-UNCHECKED"}, {"with the peer port", "URL-PORT"},
	{"state new", "STATE-NEW"}, {"no backup before", "BACKUP-NONE"}, {"no health check after", "HEALTH-NONE"},
}

// TestCorpus holds the review to what careful operators named, line by line.
func TestCorpus(t *testing.T) {
	files, _ := filepath.Glob("testdata/corpus/*.expect")
	if len(files) < 5 {
		t.Fatalf("%d expectations", len(files))
	}
	for _, e := range files {
		name := strings.TrimSuffix(e, ".expect")
		found := Review([]Artefact{{name, read(t, name)}}, Options{})
		for _, want := range strings.Split(strings.TrimSpace(string(read(t, e))), "\n") {
			m := expectLine.FindStringSubmatch(want)
			if m == nil {
				t.Fatalf("%s: cannot read %q", e, want)
			}
			line, _ := strconv.Atoi(m[1])
			matched := 0
			for _, f := range found {
				if strings.HasPrefix(m[3], "fine") && f.Line == line {
					t.Errorf("%s: %s, but found %+v", e, want, f)
				}
			}
			for _, s := range same {
				if strings.HasPrefix(m[3], "fine") || !strings.Contains(m[3], s.words) {
					continue
				}
				matched++
				if !at(found, line, s.codes) {
					t.Errorf("%s: %s: no %s at line %d", e, want, s.codes, line)
				}
			}
			if matched == 0 && !strings.HasPrefix(m[3], "fine") {
				t.Errorf("%s: no code answers %q", e, want)
			}
		}
	}
}

func at(found []Finding, line int, code string) bool {
	for _, f := range found {
		if f.Line == line && f.Code == code {
			return true
		}
	}
	return false
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGolden compares everything found in the artefacts with what was found before.
func TestGolden(t *testing.T) {
	files, _ := filepath.Glob("testdata/golden/*")
	more, _ := filepath.Glob("testdata/corpus/*")
	n := 0
	for _, name := range append(files, more...) {
		if ext := filepath.Ext(name); ext == ".want" || ext == ".expect" || ext == ".md" {
			continue
		}
		n++
		var b strings.Builder
		for _, f := range Review([]Artefact{{filepath.Base(name), read(t, name)}}, Options{}) {
			fmt.Fprintf(&b, "%d %s %s: %s\n", f.Line, f.Severity, f.Code, f.Why)
		}
		want := name + ".want"
		if rewriting() {
			if err := os.WriteFile(want, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if d := cmp.Diff(string(read(t, want)), b.String()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	if n < 25 {
		t.Errorf("only %d artefacts", n)
	}
}

// TestOrder holds the review to the order of the commands, also on one line and
// across the shells that they run in.
func TestOrder(t *testing.T) {
	const save = "ssh a etcdctl snapshot save x\n"
	for _, c := range []struct {
		text, code string
		want       bool
	}{
		{save + `for h in a b; do ssh $h systemctl restart etcd; until ssh $h etcdctl endpoint health; do sleep 1; done; done`, "LOOP-NO-GATE", false},
		{save + `for h in a b; do until ssh $h etcdctl endpoint health; do sleep 1; done; ssh $h systemctl restart etcd; done`, "LOOP-NO-GATE", true},
		{save + "for h in a b; do ssh $h systemctl restart etcd; done\nuntil etcdctl endpoint health; do sleep 1; done", "LOOP-NO-GATE", true},
		{"ssh a 'etcdctl endpoint health; systemctl restart etcd'", "HEALTH-NONE", true},
		{"ssh a 'systemctl restart etcd; etcdctl endpoint health'", "HEALTH-NONE", false},
		{"docker run -d -v /d:/data etcd:v3.5.30 etcd --data-dir=/data\ndocker exec etcd rm -rf /data/x", "DATA-REMOVED", true},
		{"A=\" \"\n$A\nrm -rf /var/lib/etcd", "DATA-REMOVED", true},
		{strings.Repeat("ssh h $(", 40) + "rm -rf /var/lib/etcd" + strings.Repeat(")", 40), "DATA-REMOVED", true},
		{strings.Repeat("sudo ", 40) + "rm -rf /var/lib/etcd", "NOT-UNDERSTOOD", true},
	} {
		got := slices.ContainsFunc(Review([]Artefact{{"a.sh", []byte(c.text)}}, Options{}), func(f Finding) bool { return f.Code == c.code })
		if got != c.want {
			t.Errorf("%s: %s is %v", c.text, c.code, got)
		}
	}
}

// FuzzReview gives any bytes to every parser: none may panic.
func FuzzReview(f *testing.F) {
	for _, dir := range []string{"corpus", "golden"} {
		files, _ := filepath.Glob("testdata/" + dir + "/*")
		for _, name := range files {
			f.Add(read(f, name))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, name := range []string{"a.sh", "a.yaml", "a.service", "a.env", "a"} {
			Review([]Artefact{{name, data}}, Options{})
		}
	})
}
