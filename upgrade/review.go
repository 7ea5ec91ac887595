package upgrade

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"theseus/upgrade/plan"
	"theseus/version"
)

const reviewUsage = `NAME
  theseus upgrade review - read what is about to be run, and name each hazard with its line

USAGE
  theseus upgrade review [flags] ARTEFACT...

  An artefact is a shell script, a systemd unit or drop-in, an environment file, a
  Kubernetes pod or StatefulSet, a compose file, or etcd's own YAML configuration.
  Nothing is run and nothing is changed. What was not understood is said.

FLAGS
  --from-version V   the version that runs now, such as 3.4.27; else taken from a manifest's image
  --to-version V     the version to move to (default 3.7, which Theseus speaks)
  --new-cluster      the cluster is being made, nothing runs yet
  -o FORMAT          text (default), json or sarif

EXIT CODES
  0 nothing blocks   1 an artefact could not be read   2 usage   3 a finding blocks

EXAMPLE
  theseus upgrade review --from-version 3.4.27 /etc/systemd/system/etcd.service install.sh
`

func review(args []string, stdout, stderr io.Writer) int {
	var o plan.Options
	fs := flag.NewFlagSet("review", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	from, to := fs.String("from-version", "", ""), fs.String("to-version", "", "")
	format := fs.String("o", "text", "")
	fs.BoolVar(&o.NewCluster, "new-cluster", false, "")
	err := fs.Parse(args)
	if err == flag.ErrHelp {
		_, _ = io.WriteString(stdout, reviewUsage)
		return 0
	}
	if err == nil {
		o.From, err = minor("from-version", *from)
	}
	if err == nil {
		o.To, err = minor("to-version", *to)
	}
	if err == nil && *format != "text" && *format != "json" && *format != "sarif" {
		err = fmt.Errorf("-o %q: text, json or sarif", *format)
	}
	if err == nil && fs.NArg() == 0 {
		err = fmt.Errorf("no artefact to read")
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "theseus upgrade review: %v\nTry 'theseus upgrade review --help'.\n", err)
		return 2
	}
	var as []plan.Artefact
	for _, name := range fs.Args() {
		data, err := os.ReadFile(name)
		if err != nil {
			_, _ = fmt.Fprintf(stderr, "theseus upgrade review: %v\n", err)
			return 1
		}
		as = append(as, plan.Artefact{Name: name, Data: data})
	}
	found := plan.Review(as, o)
	if err := show(stdout, *format, len(as), found); err != nil {
		_, _ = fmt.Fprintf(stderr, "theseus upgrade review: %v\n", err)
		return 1
	}
	if plan.Blocks(found) {
		return 3
	}
	return 0
}

// minor reads a version of the minors whose flags are known; "3.4" will do.
func minor(name, text string) (version.Version, error) {
	if text == "" {
		return version.Version{}, nil
	}
	v, err := version.Parse(text)
	if err != nil {
		v, err = version.Parse(text + ".0")
	}
	if err != nil || v.Major != 3 || v.Minor < 1 || v.Minor > version.Current.Minor {
		return v, fmt.Errorf("--%s %q: want a version from 3.1 to %s", name, text, version.Current.MinorString())
	}
	return v, nil
}

func show(w io.Writer, format string, files int, found []plan.Finding) error {
	switch format {
	case "json":
		if found == nil {
			found = []plan.Finding{}
		}
		return encode(w, map[string]any{"findings": found, "blocks": plan.Blocks(found)})
	case "sarif":
		return encode(w, sarif(found))
	}
	return showText(w, files, found)
}

func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func showText(w io.Writer, files int, found []plan.Finding) error {
	n := map[plan.Severity]int{}
	for _, f := range found {
		n[f.Severity]++
		place := fmt.Sprintf("%s:%d", f.File, f.Line)
		if f.Line == 0 {
			place = f.File + ": whole file"
		}
		if _, err := fmt.Fprintf(w, "%s: %s %s\n", place, f.Severity, f.Code); err != nil {
			return err
		}
		if f.Text != "" {
			_, _ = fmt.Fprintf(w, "    > %s\n", f.Text)
		}
		_, _ = fmt.Fprintf(w, "    why:  %s\n    mend: %s\n\n", f.Why, f.Mend)
	}
	_, err := fmt.Fprintf(w, "%d read: %d block, %d warn, %d info\n", files, n[plan.Block], n[plan.Warn], n[plan.Info])
	return err
}

type object = map[string]any

// sarif is the findings as a SARIF 2.1.0 log.
func sarif(found []plan.Finding) object {
	level := map[plan.Severity]string{plan.Block: "error", plan.Warn: "warning", plan.Info: "note"}
	rules, results := []object{}, []object{}
	for _, h := range plan.Hazards {
		rules = append(rules, object{"id": h.Code, "shortDescription": object{"text": h.Title}, "help": object{"text": h.Mend},
			"defaultConfiguration": object{"level": level[h.Severity]}})
	}
	for _, f := range found {
		results = append(results, object{"ruleId": f.Code, "level": level[f.Severity], "message": object{"text": f.Why + " (mend: " + f.Mend + ")"},
			"locations": []object{{"physicalLocation": object{"artifactLocation": object{"uri": f.File}, "region": object{"startLine": max(f.Line, 1)}}}}})
	}
	return object{"version": "2.1.0", "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
		"runs": []object{{"tool": object{"driver": object{"name": "theseus upgrade review", "rules": rules}}, "results": results}}}
}
