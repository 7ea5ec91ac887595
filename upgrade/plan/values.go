package plan

import (
	"fmt"
	"regexp"
	"strconv"
)

var (
	isInt      = regexp.MustCompile(`^-?\d+$`)
	isDuration = regexp.MustCompile(`^[+-]?(0|(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+)$`)
)

// values checks that the target reads each value.
func (s *sheet) values(l *launch) {
	for _, st := range l.settings {
		f, ok := Flags[st.name]
		if !ok || !st.known || st.value == "" && st.from == byEnv {
			continue
		}
		bad := ""
		switch f.Kind {
		case "bool":
			if _, err := strconv.ParseBool(st.value); err != nil {
				bad = "a boolean"
			}
		case "uint", "int":
			if !isInt.MatchString(st.value) || f.Kind == "uint" && st.value[0] == '-' {
				bad = "a number"
			}
		case "duration":
			if st.from == byFile && !isInt.MatchString(st.value) {
				bad = "nanoseconds as a number in a config file"
			} else if st.from != byFile && !isDuration.MatchString(st.value) {
				bad = "a duration with its unit"
			}
		}
		if bad != "" {
			s.add("FLAG-TYPE", st.line, fmt.Sprintf("%s must be %s, not %q", st.name, bad, st.value), "")
		}
	}
	if q, ok := l.get("quota-backend-bytes"); ok && q.known && !s.opt.NewCluster {
		if n, err := strconv.ParseInt(q.value, 10, 64); err == nil && n > 0 && n < 2<<30 {
			s.add("QUOTA-LOW", q.line, fmt.Sprintf("the quota is %d bytes, below the default of 2 GiB: a larger store raises NOSPACE", n), "")
		}
	}
}
