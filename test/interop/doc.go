// Package interop holds the tests that put real etcd beside Theseus: data
// directories that go back and forth, mixed clusters, answers and command line
// output compared. The real programs are built by peers/build.sh.
package interop
