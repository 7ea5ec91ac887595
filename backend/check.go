package backend

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"os"
	"syscall"
)

// DamageError says that a file is damaged and was left as it is.
type DamageError struct {
	File   string
	Offset int64 // in bytes, of the page that is wrong
	What   string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged at offset %d: %s; nothing was changed; restore the member from a snapshot, "+
		"or remove it from the cluster and add it anew with an empty data directory", e.File, e.Offset, e.What)
}

// The layout of bbolt's pages (docs/format/db.md). Numbers are in the byte order
// of the machine that wrote the file.
const (
	pageHeaderBytes = 16
	elementBytes    = 16 // of a branch and of a leaf alike
	metaBytes       = 64
	bucketBytes     = 16

	flagBranch, flagLeaf, flagMeta, flagFreelist = 0x01, 0x02, 0x04, 0x10

	elementIsBucket = 0x01
	metaMagic       = 0xED0CDAED
	metaVersion     = 2
	noFreelist      = ^uint64(0)
	maxDepth        = 64 // no tree of 2^63 bytes is deeper
)

var order = binary.NativeEndian

// checkFile walks all pages that are in use and tells what is wrong with the
// first bad one. bbolt would meet it by a panic, or, where the file is shorter
// than it says, by a SIGBUS. An empty file is fine: it is not made yet.
func checkFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if size == 0 {
		return nil
	}
	c := &checker{file: f.Name(), size: size}
	if size < 2*1024 {
		return c.damage(0, "%d bytes are too few for a database", size)
	}
	c.data, err = syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %s: %w", f.Name(), err)
	}
	defer func() { _ = syscall.Munmap(c.data) }()
	m, err := c.newestMeta()
	if err != nil {
		return err
	}
	return c.tree(m)
}

// checker holds what a walk needs to know.
type checker struct {
	file     string
	data     []byte
	size     int64
	pageSize int64
	pages    uint64 // the first page that was never used
	seen     []uint64
}

func (c *checker) damage(offset int64, format string, args ...any) error {
	return &DamageError{File: c.file, Offset: offset, What: fmt.Sprintf(format, args...)}
}

// meta is what a meta page says.
type meta struct {
	pageSize                    int64
	root, freelist, pages, txid uint64
}

// newestMeta reads both meta pages and returns the valid one of the later
// transaction. The other one may be torn: that is how a crash looks.
func (c *checker) newestMeta() (meta, error) {
	best, why := c.meta(0)
	found := why == ""
	from, to := int64(1024), int64(1)<<24
	if found { // it says where the other one is
		from, to = best.pageSize, best.pageSize
	}
	for pageSize := from; pageSize <= to && pageSize+pageHeaderBytes+metaBytes <= c.size; pageSize *= 2 {
		other, problem := c.meta(pageSize)
		if problem == "" && other.pageSize == pageSize && (!found || other.txid > best.txid) {
			best, found = other, true
		}
	}
	if !found {
		return meta{}, c.damage(0, "both meta pages are invalid (%s)", why)
	}
	c.pageSize, c.pages = best.pageSize, best.pages
	if need := int64(best.pages) * best.pageSize; best.pages > uint64(c.size) || need > c.size {
		return meta{}, c.damage(c.size, "the file ends here, but its meta page speaks of %d pages of %d bytes (truncated?)",
			best.pages, best.pageSize)
	}
	return best, nil
}

// meta reads the meta page at an offset and says what is wrong with it, if anything.
func (c *checker) meta(offset int64) (m meta, why string) {
	b := c.data[offset+pageHeaderBytes : offset+pageHeaderBytes+metaBytes]
	if magic := order.Uint32(b); magic != metaMagic {
		return m, fmt.Sprintf("magic number is %08x", magic)
	}
	if version := order.Uint32(b[4:]); version != metaVersion {
		return m, fmt.Sprintf("format version is %d, want %d", version, metaVersion)
	}
	sum := fnv.New64a()
	_, _ = sum.Write(b[:56])
	if sum.Sum64() != order.Uint64(b[56:]) {
		return m, "checksum mismatch"
	}
	m = meta{
		pageSize: int64(order.Uint32(b[8:])), root: order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]), pages: order.Uint64(b[40:]), txid: order.Uint64(b[48:]),
	}
	if m.pageSize < 1024 || m.pageSize > 1<<24 || m.pageSize&(m.pageSize-1) != 0 {
		return m, fmt.Sprintf("page size is %d", m.pageSize)
	}
	return m, ""
}

// tree checks everything that a meta page leads to.
func (c *checker) tree(m meta) error {
	c.seen = make([]uint64, (c.pages+63)/64)
	if err := c.page(m.root, bounds{}, 0); err != nil {
		return err
	}
	if m.freelist == noFreelist {
		return nil
	}
	return c.freelist(m.freelist)
}

func (c *checker) isSeen(page uint64) bool { return c.seen[page/64]&(1<<(page%64)) != 0 }

// header is the beginning of a page.
type header struct {
	offset int64
	flags  uint16
	count  int
	body   []byte // the page with its overflow, without the header
}

// claim reads the header of a page and notes that the page and its overflow are in use.
func (c *checker) claim(id uint64) (header, error) {
	offset := int64(id) * c.pageSize
	if id < 2 || id >= c.pages {
		return header{}, c.damage(0, "a page refers to page %d of %d", id, c.pages)
	}
	b := c.data[offset:]
	if got := order.Uint64(b); got != id {
		return header{}, c.damage(offset, "page %d calls itself page %d", id, got)
	}
	h := header{offset: offset, flags: order.Uint16(b[8:]), count: int(order.Uint16(b[10:]))}
	extra := uint64(order.Uint32(b[12:]))
	if id+extra >= c.pages {
		return h, c.damage(offset, "page %d with %d pages of overflow ends beyond the file's %d pages", id, extra, c.pages)
	}
	for p := id; p <= id+extra; p++ {
		if c.isSeen(p) {
			return h, c.damage(offset, "page %d is used twice", p)
		}
		c.seen[p/64] |= 1 << (p % 64)
	}
	h.body = b[pageHeaderBytes : int64(extra+1)*c.pageSize]
	return h, nil
}

func (c *checker) freelist(id uint64) error {
	h, err := c.claim(id)
	if err != nil {
		return err
	}
	if h.flags != flagFreelist {
		return c.damage(h.offset, "page %d has type %#x, want a freelist", id, h.flags)
	}
	count, ids := uint64(h.count), h.body
	if count == 0xFFFF { // too many for 16 bits: the first element says how many
		count, ids = order.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return c.damage(h.offset, "the freelist of %d pages does not fit into its page", count)
	}
	for i := range count {
		if p := order.Uint64(ids[i*8:]); p < 2 || p >= c.pages || c.isSeen(p) {
			return c.damage(h.offset, "the freelist names page %d, which is in use or beyond the file's %d pages", p, c.pages)
		}
	}
	return nil
}

// bounds are what the keys of a page must keep: from least on, and below limit.
// nil is no bound.
type bounds struct{ least, limit []byte }

// ok tells whether key may follow prev, the key before it on the page (nil: it is the first).
func (b bounds) ok(prev, key []byte) bool {
	return bytes.Compare(key, b.least) >= 0 && (b.limit == nil || bytes.Compare(key, b.limit) < 0) &&
		(prev == nil || bytes.Compare(key, prev) > 0)
}

// page checks a branch or leaf page and all below it.
func (c *checker) page(id uint64, in bounds, depth int) error {
	h, err := c.claim(id)
	if err != nil {
		return err
	}
	switch {
	case depth > maxDepth:
		return c.damage(h.offset, "page %d is %d levels deep", id, depth)
	case h.flags == flagLeaf:
		return c.leaf(h, in, depth)
	case h.flags == flagBranch && h.count > 0:
		return c.branch(h, in, depth)
	}
	return c.damage(h.offset, "page %d has type %#x with %d elements, want a branch or a leaf", id, h.flags, h.count)
}

func (c *checker) branch(h header, in bounds, depth int) error {
	if h.count*elementBytes > len(h.body) {
		return c.damage(h.offset, "the %d elements of a branch page do not fit", h.count)
	}
	var prev []byte
	var child uint64
	for i := range h.count {
		e := h.body[i*elementBytes:]
		key, ok := span(h.body, i*elementBytes, order.Uint32(e), order.Uint32(e[4:]))
		if !ok || !in.ok(prev, key) {
			return c.damage(h.offset, "key %d of a branch page is out of bounds or out of order", i)
		}
		if i > 0 {
			if err := c.page(child, bounds{prev, key}, depth+1); err != nil {
				return err
			}
		}
		prev, child = key, order.Uint64(e[8:])
	}
	return c.page(child, bounds{prev, in.limit}, depth+1)
}

func (c *checker) leaf(h header, in bounds, depth int) error {
	if h.count*elementBytes > len(h.body) {
		return c.damage(h.offset, "the %d elements of a leaf page do not fit", h.count)
	}
	var prev []byte
	for i := range h.count {
		e := h.body[i*elementBytes:]
		pos, keyBytes, valueBytes := order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:])
		key, ok := span(h.body, i*elementBytes, pos, keyBytes)
		if !ok || !in.ok(prev, key) {
			return c.damage(h.offset, "key %d of a leaf page is out of bounds or out of order", i)
		}
		value, ok := span(h.body, i*elementBytes+int(pos)+int(keyBytes), 0, valueBytes)
		if !ok {
			return c.damage(h.offset, "value %d of a leaf page is out of bounds", i)
		}
		if order.Uint32(e)&elementIsBucket != 0 {
			if err := c.bucket(value, h, depth); err != nil {
				return err
			}
		}
		prev = key
	}
	return nil
}

// bucket checks a bucket's record: where its root page is, or, if it is small,
// the page itself.
func (c *checker) bucket(value []byte, h header, depth int) error {
	if len(value) < bucketBytes {
		return c.damage(h.offset, "a bucket's record of %d bytes is too short", len(value))
	}
	if root := order.Uint64(value); root != 0 {
		return c.page(root, bounds{}, depth+1)
	}
	inline := value[bucketBytes:]
	if len(inline) < pageHeaderBytes || order.Uint16(inline[8:]) != flagLeaf || depth > maxDepth {
		return c.damage(h.offset, "a small bucket is no leaf page")
	}
	h.count, h.body = int(order.Uint16(inline[10:])), inline[pageHeaderBytes:]
	return c.leaf(h, bounds{}, depth+1)
}

// span returns n bytes of a page, pos bytes after at.
func span(body []byte, at int, pos, n uint32) ([]byte, bool) {
	from := uint64(at) + uint64(pos)
	if from+uint64(n) > uint64(len(body)) {
		return nil, false
	}
	return body[from:][:n], true
}
