package vfs

import (
	"math/rand/v2"
	"slices"
)

// sectorBytes is what a disk writes as a whole or not at all.
const sectorBytes = 512

// Crash returns the disk as it is found after a power loss now. What was synced
// is there. Of the rest the seed keeps all, nothing, or some: of the names in a
// directory the changes up to some point, of the sizes of a file any, and of each
// sector the writes up to some point. c itself is dead from here on, and the seed
// of the new disk differs from its own.
func (c *Crash) Crash() *Crash {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	luck := newLuck(c.seed, uint64(c.ops))
	c.loseNames(luck)
	return &Crash{seed: luck.rng.Uint64(), limit: -1, root: survive(c.root, luck)}
}

// luck decides what survives.
type luck struct {
	rng  *rand.Rand
	keep float64 // probability that one piece survives
}

func newLuck(seed, ops uint64) *luck {
	rng := rand.New(rand.NewPCG(seed, ops))
	odds := []float64{0, 1, 0.1, 0.5, 0.9}
	return &luck{rng: rng, keep: odds[rng.IntN(len(odds))]}
}

func (l *luck) lives() bool { return l.rng.Float64() < l.keep }

// loseNames commits the changes of names that survive. File systems keep the
// changes of one directory in order, so the first one lost takes with it all
// later ones of the same directories.
func (c *Crash) loseNames(l *luck) {
	stopped := map[*inode]bool{}
	for _, ch := range c.journal {
		lost := slices.ContainsFunc(ch.parts, func(p namePart) bool { return stopped[p.dir] }) || !l.lives()
		if !lost {
			ch.commit()
			continue
		}
		for _, p := range ch.parts {
			stopped[p.dir] = true
		}
	}
	c.journal = nil
}

// survive copies the tree as the disk has it.
func survive(n *inode, l *luck) *inode {
	if n.names == nil {
		data := n.surviving(l)
		return &inode{mode: n.mode, data: data, durable: slices.Clone(data)}
	}
	d := newDir(n.mode.Perm())
	for _, name := range sortedNames(n.onDisk) {
		child := survive(n.onDisk[name], l)
		d.names[name], d.onDisk[name] = child, child
	}
	return d
}

func sortedNames(m map[string]*inode) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// surviving is the content of a file after the power loss. A sector goes to the
// disk as it is at some moment, so the first change of it that is lost takes
// with it all later ones.
func (n *inode) surviving(l *luck) []byte {
	b := slices.Clone(n.durable)
	stopped := map[int64]bool{}
	for _, ch := range n.pending {
		if ch.data == nil {
			if l.lives() {
				b = ch.apply(b)
			}
			continue
		}
		for _, piece := range ch.sectors() {
			sector := piece.off / sectorBytes
			if stopped[sector] || !l.lives() {
				stopped[sector] = true
				continue
			}
			b = piece.apply(b)
		}
	}
	return b
}

// sectors cuts a write at the sector boundaries of the file.
func (ch change) sectors() []change {
	var out []change
	off, data := ch.off, ch.data
	for len(data) > 0 {
		n := min(int64(len(data)), sectorBytes-off%sectorBytes)
		out = append(out, change{off: off, data: data[:n]})
		off, data = off+n, data[n:]
	}
	return out
}
