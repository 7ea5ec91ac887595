package ctl

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"theseus/printer"
)

// progressAfter is how long something may last before it is shown to be alive.
const progressAfter = 2 * time.Second

// progress is a line on stderr that tells how far something is. It appears only on
// a terminal, and only for what lasts.
type progress struct {
	total int64 // 0: unknown
	bytes bool
	done  atomic.Int64
	end   chan struct{}
	wait  sync.WaitGroup
}

// progress begins to show what is being done; stop ends it and clears the line.
func (a *app) progress(what string) *progress { return a.progressOf(what, 0, false) }

func (a *app) progressOf(what string, total int64, bytes bool) *progress {
	p := &progress{total: total, bytes: bytes, end: make(chan struct{})}
	if !terminal(a.o.Stderr) {
		return p
	}
	p.wait.Go(func() {
		start := time.Now()
		tick := time.NewTicker(progressAfter / 4)
		defer tick.Stop()
		shown := false
		for {
			select {
			case <-tick.C:
			case <-p.end:
				if shown {
					a.errorf("\r\x1b[K")
				}
				return
			}
			if took := time.Since(start); took >= progressAfter {
				a.errorf("\r\x1b[K%s: %s%s", what, p.text(), took.Round(time.Second))
				shown = true
			}
		}
	})
	return p
}

func (p *progress) text() string {
	done := p.done.Load()
	switch {
	case p.bytes:
		return printer.Bytes(done) + ", "
	case p.total > 0:
		return fmt.Sprintf("%d of %d, ", done, p.total)
	}
	return ""
}

// add tells that n more are done, from any goroutine.
func (p *progress) add(n int64) { p.done.Add(n) }

// Write counts bytes, so that a progress can stand behind an io.MultiWriter.
func (p *progress) Write(b []byte) (int, error) {
	p.add(int64(len(b)))
	return len(b), nil
}

// stop is called once.
func (p *progress) stop() {
	close(p.end)
	p.wait.Wait()
}
