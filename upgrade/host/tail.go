package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxTail is how far back into a log file Logs looks.
const maxTail = 1 << 20

// tail returns the last lines of file, as many as its last maxTail bytes hold.
func tail(file string, lines int) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open the member's log: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the member's log: %w", err)
	}
	from := max(0, info.Size()-maxTail)
	raw := make([]byte, info.Size()-from)
	n, err := f.ReadAt(raw, from)
	if n < len(raw) && err != nil {
		return nil, fmt.Errorf("read the member's log: %w", err)
	}
	return lastLines(string(raw), lines), nil
}

// lastLines returns the last lines of text without their ends.
func lastLines(text string, lines int) []string {
	text = strings.TrimRight(text, "\n")
	if text == "" || lines <= 0 {
		return nil
	}
	all := strings.Split(text, "\n")
	return all[max(0, len(all)-lines):]
}

// freeBytes returns what is free for a member on the file system of dir, or of the
// nearest directory above it that exists; 0 if that cannot be told.
func freeBytes(dir string) int64 {
	for {
		var fs unix.Statfs_t
		err := unix.Statfs(dir, &fs)
		if err == nil {
			return int64(fs.Bavail) * fs.Bsize //nolint:unconvert // the types differ between systems
		}
		up := filepath.Dir(dir)
		if !errors.Is(err, unix.ENOENT) || up == dir {
			return 0
		}
		dir = up
	}
}
