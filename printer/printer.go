package printer

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
)

// Formats are the output formats in the order in which help texts name them.
var Formats = []string{"fields", "json", "protobuf", "simple", "table"}

// ErrUnknownFormat is returned by New for a name that is not among Formats.
var ErrUnknownFormat = errors.New("unsupported output format")

// UnsupportedError says that a result cannot be written in the format asked for.
type UnsupportedError struct{ Text string }

func (e *UnsupportedError) Error() string { return e.Text }

func unsupported(format string) error {
	return &UnsupportedError{format + " not supported as output format"}
}

// Options configures New.
type Options struct {
	Out io.Writer
	// Hex writes keys and values of the simple format as \xff, and ids of the
	// fields format and of member lists as hexadecimal numbers.
	Hex bool
	// ValueOnly leaves the keys out of the simple format.
	ValueOnly bool
}

// Printer writes results in one format. It is used by one goroutine at a time.
type Printer struct {
	format string
	o      Options
}

// New returns the printer of a format, or ErrUnknownFormat.
func New(format string, o Options) (*Printer, error) {
	for _, f := range Formats {
		if f == format {
			return &Printer{format: format, o: o}, nil
		}
	}
	return nil, ErrUnknownFormat
}

// Simple reports whether the format is simple, the one to which commands may add
// words of their own.
func (p *Printer) Simple() bool { return p.format == "simple" }

// Result is one result in every form that it has; nil means that it lacks this one.
type Result struct {
	simple func(*text)
	fields func(*text)
	table  func() *table
	// json is what is encoded; hexJSON replaces it when Options.Hex is set.
	json, hexJSON any
	proto         proto.Message
	// protoErr is said instead of what is said of a missing proto.
	protoErr string
}

// Print writes one result. What cannot be written completely is not begun, unless
// Out itself fails.
func (p *Printer) Print(r Result) error {
	switch p.format {
	case "simple":
		return p.text(r.simple)
	case "fields":
		return p.text(r.fields)
	case "table":
		if r.table == nil {
			return unsupported(p.format)
		}
		return p.text(func(t *text) { r.table().write(t) })
	case "json":
		return p.json(r)
	}
	return p.protobuf(r)
}

func (p *Printer) text(form func(*text)) error {
	if form == nil {
		return unsupported(p.format)
	}
	t := &text{w: bufio.NewWriter(p.o.Out), hex: p.o.Hex, valueOnly: p.o.ValueOnly}
	form(t)
	return t.w.Flush()
}

func (p *Printer) json(r Result) error {
	v := r.json
	if p.o.Hex && r.hexJSON != nil {
		v = r.hexJSON
	}
	if v == nil {
		return unsupported(p.format)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	_, err = p.o.Out.Write(append(b, '\n'))
	return err
}

func (p *Printer) protobuf(r Result) error {
	if r.proto == nil {
		if r.protoErr != "" {
			return &UnsupportedError{r.protoErr}
		}
		return unsupported(p.format)
	}
	b, err := proto.Marshal(r.proto)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	_, err = p.o.Out.Write(b)
	return err
}

// text is the writer of the forms that people read. Errors stick in the bufio.Writer.
type text struct {
	w         *bufio.Writer
	hex       bool
	valueOnly bool
}

func (t *text) line(v ...any) { fmt.Fprintln(t.w, v...) }

func (t *text) printf(format string, v ...any) { fmt.Fprintf(t.w, format, v...) }

// bytes writes a key or a value on a line of its own.
func (t *text) bytes(b []byte) {
	if t.hex {
		for _, c := range b {
			t.printf(`\x%02x`, c)
		}
	} else {
		t.w.Write(b) //nolint:errcheck // sticks in the bufio.Writer
	}
	t.w.WriteByte('\n') //nolint:errcheck // sticks in the bufio.Writer
}

// id writes a field that holds the id of a cluster or a member.
func (t *text) id(name string, id uint64) {
	if t.hex {
		t.printf("%q : %x\n", name, id)
		return
	}
	t.printf("%q : %d\n", name, id)
}

// lease writes a field that holds the id of a lease.
func (t *text) lease(name string, id int64) {
	if t.hex {
		t.printf("%q : %016x\n", name, id)
		return
	}
	t.printf("%q : %d\n", name, id)
}

// field writes a field whose value needs no quotes.
func (t *text) field(name string, v any) { t.printf("%q : %v\n", name, v) }

// quoted writes a field whose value is text or bytes.
func (t *text) quoted(name string, v any) { t.printf("%q : %q\n", name, v) }
