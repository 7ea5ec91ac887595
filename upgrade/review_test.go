package upgrade

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"theseus/upgrade/plan"
)

func TestMain_codes(t *testing.T) {
	bad, good := "plan/testdata/corpus/recreate-member.sh", "plan/testdata/golden/good.env"
	for _, c := range []struct {
		args string
		code int
		out  string
	}{
		{"review " + bad, 3, "recreate-member.sh:6: block DATA-REMOVED\n    > rm -rf $DATA\n"},
		{"review " + good, 0, "1 read: 0 block"},
		{"review --from-version 3.4 --to-version 3.6 " + good, 0, "DEFAULT-CHANGED"},
		{"review nosuch", 1, ""}, {"review", 2, ""}, {"review -o xml " + good, 2, ""}, {"review --from-version 4.0 " + good, 2, ""},
		{"fly", 2, ""}, {"", 2, ""}, {"help", 0, "NAME"}, {"review --help", 0, "EXIT CODES"},
	} {
		var out, errs bytes.Buffer
		if code := Main(strings.Fields(c.args), &out, &errs); code != c.code || !strings.Contains(out.String(), c.out) {
			t.Errorf("%q: code %d, want %d; output %q, want %q in it; %s", c.args, code, c.code, out.String(), c.out, errs.String())
		}
	}
}

func TestMachineFormats(t *testing.T) {
	for _, format := range []string{"json", "sarif"} {
		var out, errs bytes.Buffer
		if code := Main([]string{"review", "-o", format, "plan/testdata/corpus/etcd.yaml"}, &out, &errs); code != 3 {
			t.Errorf("%s: code %d: %s", format, code, errs.String())
		}
		if !json.Valid(out.Bytes()) || !strings.Contains(out.String(), "FLAG-REMOVED") {
			t.Errorf("%s: %s", format, out.String())
		}
	}
}

// TestDocs keeps the table of codes in the documentation the one in the code.
func TestDocs(t *testing.T) {
	doc, err := os.ReadFile("../docs/review.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range plan.Hazards {
		if row := "| `" + h.Code + "` | " + string(h.Severity) + " | " + h.Title + " | " + h.Mend + " |"; !strings.Contains(string(doc), row) {
			t.Errorf("docs/review.md lacks the row %s", row)
		}
	}
}
