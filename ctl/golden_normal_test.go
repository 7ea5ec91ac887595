package ctl_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// names replaces ids that differ between runs by names in the order in which they
// were met. The first member's id is the same in every run.
type names struct {
	members, leases []uint64
}

func (n *names) member(id uint64) { n.members = insertID(n.members, id) }
func (n *names) lease(id uint64)  { n.leases = insertID(n.leases, id) }

func insertID(ids []uint64, id uint64) []uint64 {
	for _, have := range ids {
		if have == id {
			return ids
		}
	}
	return append(ids, id)
}

// each calls f with every id and its name.
func (n *names) each(f func(id uint64, name string)) {
	for i, id := range n.members {
		if i > 0 {
			f(id, fmt.Sprintf("<member%d>", i))
		}
	}
	for _, id := range n.leases {
		f(id, "<lease>")
	}
}

// binary replaces ids within protobuf messages.
func (n *names) binary(b []byte) []byte {
	if utf8.Valid(b) && !bytes.ContainsRune(b, 0) {
		return b
	}
	b = bytes.Clone(b)
	n.each(func(id uint64, name string) {
		v := binary.AppendUvarint(nil, id)
		for i := bytes.Index(b, v); i >= 0; i = bytes.Index(b, v) {
			if i >= 2 && b[i-1] == 0x08 {
				b[i-2] -= byte(len(v)) // the length of the message that the id begins
			}
			b = slices.Replace(b, i, i+len(v), []byte(name)...)
		}
	})
	return b
}

var (
	jsonBase64 = regexp.MustCompile(`"[A-Za-z0-9+/]{8,}={0,2}"`)
	lockKey    = regexp.MustCompile(`/[0-9a-f]{15,16}\b`)
	always     = []struct{ re, to string }{
		{`took = \S+`, `took = <t>`},
		{`"took":"[^"]*"`, `"took":"<t>"`},
		{`took [0-9.]+[µnm]?s`, `took <t>`},
		{`"Took" : \S+`, `"Took" : <t>`},
		{`(memberID:\d+) +(alarm:)`, `$1 $2`},
		{`(marshal unsupported for type \S+) .*`, `$1`},
		{`Member +`, `Member `},
		{`\d+(\.\d+)? [kM]B`, `<size>`},
		{`, \d+%, `, `, <n>%, `},
		{`("dbSize":|"dbSizeInUse":|"DBSize" : |"DBSizeInUse" : )\d+`, `$1<n>`},
		// what a server proposes by itself is its own business
		{`(, (?:true|false), (?:true|false), \d+), \d+, \d+,`, `$1, <i>, <i>,`},
		{`("raftIndex":|"raftAppliedIndex":|"RaftIndex" : |"RaftAppliedIndex" : )\d+`, `$1<i>`},
		{`remaining\(\d+s\)`, `remaining(<t>)`},
		{`("TTL" : |"ttl":)\d+`, `$1<t>`},
		{`lookup (\S+) on \S+: .*? and `, `lookup $1 and `},
		{`(lookup \S+) on \S+: .*`, `$1`},
	}
	// boxes differ in width when their cells do.
	box      = regexp.MustCompile(`─+| +`)
	tookCell = regexp.MustCompile(`[0-9.]+(ms|µs|s) │`)
	sizeCell = regexp.MustCompile(`[0-9.]+% │`)
	raftCell = regexp.MustCompile(`(│ (?:true|false) │ \d+) │ \d+ │ \d+ │`)
)

// normal makes two runs comparable. Loose ones print tables whose cells differ in width.
func (n *names) normal(s, dir string, loose bool) string {
	s = lockKey.ReplaceAllString(s, "/<lease>")
	n.each(func(id uint64, name string) {
		s = strings.ReplaceAll(s, strconv.FormatUint(id, 10), name)
		s = strings.ReplaceAll(s, fmt.Sprintf("%016x", id), name)
		s = strings.ReplaceAll(s, fmt.Sprintf("%x", id), name)
	})
	s = strings.ReplaceAll(s, dir, "<dir>")
	s = jsonBase64.ReplaceAllStringFunc(s, func(q string) string {
		b, err := base64.StdEncoding.DecodeString(strings.Trim(q, `"`))
		if err != nil || !lockKey.Match(b) {
			return q
		}
		return `"base64(` + lockKey.ReplaceAllString(string(b), "/<lease>") + `)"`
	})
	for _, r := range always {
		s = regexp.MustCompile(r.re).ReplaceAllString(s, r.to)
	}
	if !loose {
		return s
	}
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.ContainsAny(l, "│─") {
			l = box.ReplaceAllStringFunc(l, func(m string) string { return string([]rune(m)[:1]) })
			l = sizeCell.ReplaceAllString(tookCell.ReplaceAllString(l, "<t> │"), "<n>% │")
			lines[i] = raftCell.ReplaceAllString(l, "$1 │ <i> │ <i> │")
		}
	}
	return strings.Join(lines, "\n")
}

// printable quotes what is not text.
func printable(b []byte) string {
	if utf8.Valid(b) && !bytes.ContainsAny(b, "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x12\x18\x1a") {
		return string(b)
	}
	q := strconv.Quote(string(b))
	return "bytes " + q + "\n"
}

// noise are lines that another program writes when stdin is no terminal.
func noise(line string) bool { return strings.HasPrefix(line, "stty:") }

// logLine keeps of a line of the client's log what is the same in every run.
func logLine(line string) string {
	var m map[string]any
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &m) != nil {
		return line
	}
	for _, k := range []string{"ts", "caller", "stacktrace", "target", "peer", "took", "size"} {
		delete(m, k)
	}
	if text, ok := m["error"].(string); ok {
		m["error"], _, _ = strings.Cut(text, " latest balancer error") // why, as the kernel says it
	}
	b, err := json.Marshal(m)
	if err != nil {
		return line
	}
	return string(b)
}

// buffer collects what a process writes and lets others wait for it.
type buffer struct {
	mu   sync.Mutex
	cond *sync.Cond
	b    bytes.Buffer
}

func newBuffer() *buffer {
	b := &buffer{}
	b.cond = sync.NewCond(&b.mu)
	return b
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.cond.Broadcast()
	return b.b.Write(p)
}

func (b *buffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.b.Bytes())
}

func (b *buffer) String() string { return string(b.Bytes()) }

// waitFor waits for n lines or bytes, at most for so long.
func (b *buffer) waitFor(n int, lines bool, limit time.Duration) bool {
	late := time.AfterFunc(limit, b.cond.Broadcast)
	defer late.Stop()
	deadline := time.Now().Add(limit)
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		have := b.b.Len()
		if lines {
			have = bytes.Count(b.b.Bytes(), []byte("\n"))
		}
		if have >= n {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		b.cond.Wait()
	}
}
