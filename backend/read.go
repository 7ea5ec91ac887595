package backend

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"go.etcd.io/bbolt"
)

// boltFile is one open file. bbolt's Close must not run while read transactions
// are open: it holds the lock that ending one of them takes, and so would wait
// for ever for a second one that the same goroutine is to end.
type boltFile struct {
	*bbolt.DB
	views sync.WaitGroup
}

// Close waits for the readers.
func (f *boltFile) Close() error {
	f.views.Wait()
	return f.DB.Close()
}

// fileView is one bbolt read transaction that many readers share: opening one
// for each read would cost more than the read. A view is replaced after every
// flush and ends when its last user lets go of it.
type fileView struct {
	file            *boltFile
	tx              *bbolt.Tx
	buckets         map[Bucket]*bbolt.Bucket
	size, sizeInUse int64
	refs            atomic.Int32
}

// newView opens a view of the newest committed state, held once by the caller.
func newView(db *boltFile) (*fileView, error) {
	tx, err := db.Begin(false)
	if err != nil {
		return nil, err
	}
	db.views.Add(1)
	v := &fileView{file: db, tx: tx, buckets: make(map[Bucket]*bbolt.Bucket, 12), size: tx.Size()}
	stats := db.Stats()
	// Pages that the last commit freed are pending until the next one may use them.
	v.sizeInUse = v.size - int64(stats.FreePageN+stats.PendingPageN)*int64(db.Info().PageSize)
	v.refs.Store(1)
	err = tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
		if bucket == nil {
			return fmt.Errorf("the file holds %q at its top, which is no bucket", name)
		}
		v.buckets[Bucket(name)] = bucket
		return nil
	})
	if err != nil {
		v.release()
		return nil, err
	}
	return v, nil
}

// acquire is called while somebody else holds the view.
func (v *fileView) acquire() *fileView {
	v.refs.Add(1)
	return v
}

func (v *fileView) release() {
	if v.refs.Add(-1) == 0 {
		_ = v.tx.Rollback() // of a read transaction: cannot fail
		v.file.views.Done()
	}
}

// Get returns the value of key, nil if there is none. The caller must not modify it.
func (b *Backend) Get(bucket Bucket, key []byte) []byte {
	k := unsafe.String(unsafe.SliceData(key), len(key))
	b.mu.RLock()
	value, found := b.pendingGet(bucket, k)
	if found || b.view == nil {
		b.mu.RUnlock()
		return value
	}
	view := b.view.acquire()
	b.mu.RUnlock()
	defer view.release()
	if in := view.buckets[bucket]; in != nil {
		if v := in.Get(key); v != nil {
			return append(make([]byte, 0, len(v)), v...) // v ends with the view; empty is not nil
		}
	}
	return nil
}

// pendingGet looks at the layers, newest first.
func (b *Backend) pendingGet(bucket Bucket, key string) (value []byte, found bool) {
	if value, found = b.active.get(bucket, key); found {
		return value, true
	}
	for i := len(b.sealed) - 1; i >= 0; i-- {
		if value, found = b.sealed[i].get(bucket, key); found {
			return value, true
		}
	}
	return nil, false
}

// Scan calls fn for the keys of [from, to) in ascending order until it returns
// false; a nil to means the end of the bucket. It shows the state at the call,
// and holds pages of the file from being reused while it runs: a reader of much
// does it in pieces. k and v are valid only during the call of fn.
func (b *Backend) Scan(bucket Bucket, from, to []byte, fn func(k, v []byte) (more bool)) error {
	return b.View(func(v *View) error { return v.Scan(bucket, from, to, fn) })
}

// View calls fn with the state at the call; what fn reads from it stays valid
// until fn returns.
func (b *Backend) View(fn func(*View) error) error {
	v, err := b.newReadView()
	if err != nil {
		return err
	}
	defer v.file.release()
	return fn(v)
}

// View is a state of all buckets.
type View struct {
	file   *fileView
	layers []map[Bucket]*run // oldest first
}

func (b *Backend) newReadView() (*View, error) {
	b.mu.Lock() // exclusively, since frozen copies the active layer's trees
	defer b.mu.Unlock()
	if b.view == nil {
		return nil, fmt.Errorf("read %s: %w", b.o.Path, ErrClosed)
	}
	v := &View{file: b.view.acquire()}
	for i, l := range append(b.sealed[:len(b.sealed):len(b.sealed)], b.active) {
		if l.ops > 0 {
			v.layers = append(v.layers, l.frozen(i == len(b.sealed)))
		}
	}
	return v, nil
}

// Scan is Backend.Scan on this state, except that k and v stay valid as long as the view.
func (v *View) Scan(bucket Bucket, from, to []byte, fn func(k, v []byte) (more bool)) error {
	m := merge{}
	start := string(from)
	for _, runs := range v.layers {
		if r := runs[bucket]; r != nil {
			if c := r.cursor(start); !c.done && (to == nil || c.cur.key < string(to)) {
				m.runs = append(m.runs, c)
			}
		}
	}
	if in := v.file.buckets[bucket]; in != nil {
		m.file = in.Cursor()
		m.key, m.value = m.file.Seek(from)
	}
	if len(m.runs) == 0 {
		return m.scanFile(to, fn)
	}
	return m.scan(to, fn)
}

// merge walks the file and the pending runs in key order.
type merge struct {
	file       *bbolt.Cursor
	key, value []byte       // under the file's cursor; key is nil at its end
	runs       []*runCursor // oldest first: a later one wins
}

// scanFile is scan where nothing is pending, as in most calls.
func (m *merge) scanFile(to []byte, fn func(k, v []byte) bool) error {
	for ; m.key != nil; m.key, m.value = m.file.Next() {
		if to != nil && bytes.Compare(m.key, to) >= 0 || !fn(m.key, m.value) {
			return nil
		}
	}
	return nil
}

func (m *merge) scan(to []byte, fn func(k, v []byte) bool) error {
	for {
		rec, ok := m.next()
		if !ok || to != nil && rec.key >= string(to) {
			return nil
		}
		if rec.value != nil && !fn(bytesOf(rec.key), rec.value) {
			return nil
		}
	}
}

// next returns the smallest key with its newest value and moves past it.
func (m *merge) next() (rec record, ok bool) {
	if m.key != nil {
		rec, ok = record{stringOf(m.key), m.value}, true
		if m.value == nil {
			rec.value = empty // bbolt has nil for a nested bucket only; nobody makes one
		}
	}
	for _, c := range m.runs {
		if !c.done && (!ok || c.cur.key <= rec.key) {
			rec, ok = c.cur, true
		}
	}
	if !ok {
		return rec, false
	}
	if m.key != nil && stringOf(m.key) == rec.key {
		m.key, m.value = m.file.Next()
	}
	for _, c := range m.runs {
		if !c.done && c.cur.key == rec.key {
			c.next()
		}
	}
	return rec, true
}

// stringOf and bytesOf reinterpret; nobody modifies what they are given.
func stringOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
func bytesOf(s string) []byte  { return unsafe.Slice(unsafe.StringData(s), len(s)) }
