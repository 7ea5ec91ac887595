//go:build !invariants

package must

// Invariants tells whether costly assertions run in this build.
const Invariants = false
