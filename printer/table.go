package printer

import (
	"strings"
	"unicode"

	"golang.org/x/text/width"
)

// table is a box of cells: headers centered, cells aligned right, an empty line
// nowhere. Cells may have several lines.
type table struct {
	headers []string
	rows    [][]string
}

// write draws the box. A row is as high as its highest cell.
func (tb *table) write(t *text) {
	rows := make([][][]string, 0, len(tb.rows)+1)
	for _, row := range append([][]string{tb.headers}, tb.rows...) {
		cells := make([][]string, len(row))
		for i, c := range row {
			cells[i] = cellLines(c)
		}
		rows = append(rows, cells)
	}
	widths := make([]int, len(tb.headers))
	for _, row := range rows {
		for i, lines := range row {
			for _, l := range lines {
				widths[i] = max(widths[i], cellWidth(l))
			}
		}
	}
	rule(t, widths, "┌", "┬", "┐")
	for i, row := range rows {
		align := alignRight
		if i == 0 {
			align = alignCenter
		}
		drawRow(t, row, widths, align)
		if i == 0 && len(rows) > 1 {
			rule(t, widths, "├", "┼", "┤")
		}
	}
	rule(t, widths, "└", "┴", "┘")
}

func rule(t *text, widths []int, left, middle, right string) {
	parts := make([]string, len(widths))
	for i, w := range widths {
		parts[i] = strings.Repeat("─", w+2)
	}
	t.line(left + strings.Join(parts, middle) + right)
}

func drawRow(t *text, row [][]string, widths []int, align func(string, int) string) {
	height := 0
	for _, lines := range row {
		height = max(height, len(lines))
	}
	for n := range height {
		parts := make([]string, len(row))
		for i, lines := range row {
			l := ""
			if n < len(lines) {
				l = lines[n]
			}
			parts[i] = " " + align(l, widths[i]) + " "
		}
		t.line("│" + strings.Join(parts, "│") + "│")
	}
}

func alignRight(s string, w int) string {
	return strings.Repeat(" ", w-cellWidth(s)) + s
}

func alignCenter(s string, w int) string {
	pad := w - cellWidth(s)
	return strings.Repeat(" ", pad/2) + s + strings.Repeat(" ", pad-pad/2)
}

// cellLines splits a cell; a tab is four columns wide, and spaces at the ends are dropped.
func cellLines(s string) []string {
	lines := strings.Split(strings.ReplaceAll(s, "\t", "    "), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimSpace(l)
	}
	return lines
}

// cellWidth counts the columns of a terminal that s fills.
func cellWidth(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		case wide(r):
			n += 2
		default:
			n++
		}
	}
	return n
}

func wide(r rune) bool {
	k := width.LookupRune(r).Kind()
	return k == width.EastAsianWide || k == width.EastAsianFullwidth
}
