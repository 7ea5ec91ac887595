package host

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExecStart(t *testing.T) {
	for _, c := range []struct {
		name  string
		files []string
		want  string // "" is an error
	}{
		{"plain", []string{"[Service]\nExecStart=/usr/bin/etcd --name a\n"}, "/usr/bin/etcd --name a"},
		{"blanks", []string{"[Service]\nExecStart = /usr/bin/etcd  \n"}, "/usr/bin/etcd"},
		{"goes on", []string{"[Service]\nExecStart=/usr/bin/etcd \\\n  --a \\\n# no\n;nor this\n  --b\nRestart=always\n"}, "/usr/bin/etcd    --a    --b"},
		{"commented out", []string{"[Service]\n#ExecStart=/usr/bin/old\nExecStart=/usr/bin/etcd\n"}, "/usr/bin/etcd"},
		{"another section", []string{"[Unit]\nExecStart=/usr/bin/no\n[Service]\nExecStart=/usr/bin/etcd\n[Install]\nExecStart=/usr/bin/no\n"}, "/usr/bin/etcd"},
		{"a drop-in", []string{"[Service]\nExecStart=/usr/bin/etcd\n", "[Service]\nExecStart=\nExecStart=/opt/etcd\n"}, "/opt/etcd"},
		{"carriage returns", []string{"[Service]\r\nExecStart=/usr/bin/etcd\r\n"}, "/usr/bin/etcd"},
		{"two", []string{"[Service]\nExecStart=/usr/bin/etcd\n", "[Service]\nExecStart=/opt/etcd\n"}, ""},
		{"none", []string{"[Service]\nExecStart=/usr/bin/etcd\nExecStart=\n"}, ""},
	} {
		got, err := execStart(c.files)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v, want %q", c.name, got, err, c.want)
		}
	}
}

func TestUnitWords(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string // nil is an error
	}{
		{`a  b	c`, []string{"a", "b", "c"}},
		{`"a b" 'c "d"' e"f g"h`, []string{"a b", `c "d"`, "ef gh"}},
		{`a\x20b \"q\" \s \101 \u00e9`, []string{"a b", `"q"`, " ", "A", "é"}},
		{`"" x`, []string{"", "x"}},
		{`${A} $B %i $$`, []string{"${A}", "$B", "%i", "$$"}},
		{`"open`, nil},
		{`a\`, nil},
		{`a\q`, nil},
		{`a\x0`, nil},
	} {
		got, err := unitWords(c.in)
		if diff := cmp.Diff(c.want, got); c.want != nil && (diff != "" || err != nil) {
			t.Errorf("%s: %v, %s", c.in, err, diff)
		}
		if c.want == nil && err == nil {
			t.Errorf("%s: %q, want an error", c.in, got)
		}
	}
}

func TestExecLineWith(t *testing.T) {
	const centos = `/bin/bash -c "GOMAXPROCS=$(nproc) /usr/bin/etcd --name=\"${ETCD_NAME}\" --data-dir=\"${ETCD_DATA_DIR}\""`
	theseus, serve := "/opt/theseus", []string{serveWord}
	for _, c := range []struct {
		raw, program string
		words        []string
		member, want string
	}{
		{"/usr/bin/etcd --name a", "/opt/etcd", nil, "/usr/bin/etcd", "/opt/etcd --name a"},
		{"/usr/bin/etcd --name a", theseus, serve, "/usr/bin/etcd", "@/opt/theseus etcd --name a"},
		{"/usr/bin/etcd", theseus, serve, "/usr/bin/etcd", "@/opt/theseus etcd"},
		{"@/opt/theseus etcd --name a", "/usr/bin/etcd", nil, theseus, "/usr/bin/etcd --name a"},
		{"/opt/theseus serve --name a", "/opt/new", serve, theseus, "@/opt/new etcd --name a"},
		{"-!/usr/bin/etcd $OPTS ${A} '%i' \"b  c\"", theseus, serve, "/usr/bin/etcd", "@-!/opt/theseus etcd $OPTS ${A} '%i' \"b  c\""},
		{`"/opt/a b/etcd" x`, "/opt/c d/100%/etcd", nil, "/opt/a b/etcd", `"/opt/c d/100%%/etcd" x`},
		{centos, "/opt/etcd-3.6", nil, "/usr/bin/etcd", strings.Replace(centos, "/usr/bin/etcd", "/opt/etcd-3.6", 1)},
		{centos, theseus, serve, "/usr/bin/etcd", strings.Replace(centos, "/usr/bin/etcd", "/opt/theseus serve", 1)},
		{`/bin/sh -c "exec /opt/theseus serve --name a"`, "/usr/bin/etcd", nil, theseus, `/bin/sh -c "exec /usr/bin/etcd --name a"`},
	} {
		e, err := parseExec(c.raw)
		if err != nil {
			t.Errorf("%s: %v", c.raw, err)
			continue
		}
		got, err := e.with(c.program, c.words)
		if err != nil || got != c.want || e.member() != c.member {
			t.Errorf("%s:\n%s (of %s), %v, want\n%s", c.raw, got, e.member(), err, c.want)
		}
	}
	for _, raw := range []string{"", "/usr/bin/docker run etcd", "/bin/sh -c /opt/start.sh", "$PROGRAM x", "/usr/bin/etcd ; /bin/true", `/usr/bin/etcd "x`, `/bin/sh -c "/usr/bin/etcd || /opt/etcd"`} {
		if _, err := parseExec(raw); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want an error of one line", raw, err)
		}
	}
}

func TestExecLineArgs(t *testing.T) {
	env := map[string]string{"A": "1 2", "DIR": "/data"}
	for _, c := range []struct {
		raw  string
		want []string
	}{
		{"/usr/bin/etcd $A ${A} x${DIR}y $$DIR $NONE", []string{"1", "2", "1 2", "x/datay", "$DIR"}},
		{"/usr/bin/etcd --name=%i --x=%p-%N --y=100%%", []string{"--name=one", "--x=etcd-etcd@one", "--y=100%"}},
		{`/bin/bash -c "GOMAXPROCS=1 /usr/bin/etcd --data-dir=\"${DIR}\""`, []string{"--data-dir=/data"}},
		{"@/opt/theseus etcd --name a", []string{"--name", "a"}},
	} {
		e, err := parseExec(c.raw)
		if diff := cmp.Diff(c.want, e.args("etcd@one.service", env)); err != nil || diff != "" {
			t.Errorf("%s: %v %s", c.raw, err, diff)
		}
	}
}

func TestDropIn(t *testing.T) {
	text := dropIn("@/opt/theseus etcd --name a")
	const want = `# Written by theseus upgrade: the member's program, and nothing else, is another than
# the unit's. Without this file and after systemctl daemon-reload it is the unit's again.
[Service]
ExecStart=
ExecStart=@/opt/theseus etcd --name a
`
	if diff := cmp.Diff(want, text); diff != "" {
		t.Fatal(diff)
	}
	if got, err := execStart([]string{"[Service]\nExecStart=/usr/bin/etcd\n", text}); err != nil || got != "@/opt/theseus etcd --name a" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestParseShow(t *testing.T) {
	show := parseShow("Id=etcd.service\nExecStart={ path=/opt/a b/etcd ; argv[]=/opt/a b/etcd --x=1 ; ignore_errors=no ; pid=0 }\n" +
		"EnvironmentFiles=/etc/default/etcd (ignore_errors=yes)\nEnvironmentFiles=/etc/etcd/a b (ignore_errors=no)\nEnvironment=A=1 \"B=2 3\"\n")
	if got := shownPath(show["ExecStart"]); got != "/opt/a b/etcd" {
		t.Errorf("path %q", got)
	}
	if diff := cmp.Diff([]string{"/etc/default/etcd", "/etc/etcd/a b"}, environmentFiles(show["EnvironmentFiles"])); diff != "" {
		t.Error(diff)
	}
	words, err := unitWords(show["Environment"])
	if diff := cmp.Diff([]string{"A=1", "B=2 3"}, words); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func TestEnvironmentFile(t *testing.T) {
	const text = "# c\n; d\nA=1\n B = two words \nC=\"a \\\"b\\\" \\n\"\nD='it''s $x'\nE=a\\\nb\nno\nF=\n"
	want := []string{"A=1", "B=two words", `C=a "b" \n`, "D=its $x", "E=ab", "F="}
	if diff := cmp.Diff(want, environmentFile(text)); diff != "" {
		t.Fatal(diff)
	}
}

// FuzzExecStart checks that what can be read can be written with another program and
// back, and keeps its arguments.
func FuzzExecStart(f *testing.F) {
	for _, s := range []string{"/usr/bin/etcd --name a", "@-/usr/bin/etcd etcd \"b c\" $D", `/bin/bash -c "GOMAXPROCS=1 /usr/bin/etcd --x=\"${Y}\""`, `"/a b/etcd" '\x41`, "/opt/theseus serve x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if strings.ContainsAny(raw, "\r\n") || raw != strings.TrimSpace(raw) || strings.HasSuffix(raw, `\`) {
			return // one line of a unit file, as it is read
		}
		e, err := parseExec(raw)
		if err != nil {
			return
		}
		before := e.args("etcd.service", nil)
		for _, words := range [][]string{{serveWord}, nil} {
			next, err := e.with("/opt/other/etcd", words)
			if err != nil && e.to != 0 {
				return // a shell's words that cannot be edited safely are refused
			}
			if err != nil {
				t.Fatalf("%q: %v", raw, err)
			}
			got, err := execStart([]string{"[Service]\nExecStart=/x\n", dropIn(next)})
			if err != nil {
				t.Fatalf("%q: %q: %v", raw, next, err)
			}
			again, err := parseExec(got)
			if err != nil || again.member() != "/opt/other/etcd" {
				t.Fatalf("%q: %q starts %q, %v", raw, next, again.member(), err)
			}
			if diff := cmp.Diff(before, again.args("etcd.service", nil)); diff != "" {
				t.Fatalf("%q: %q: %s", raw, next, diff)
			}
		}
	})
}
