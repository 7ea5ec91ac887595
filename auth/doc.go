// Package auth holds users, roles and permissions as etcd replicates and stores
// them, and decides who may do what.
//
// The state is changed by committed entries only, on one goroutine and inside a
// backend unit of the caller; all members must answer each of them alike, and count
// the revision alike, since it travels in the header of every request and a request
// with an old one is refused. So the rules here, with their errors and their order,
// are etcd's (interop 7.4). A failed change changes nothing.
//
// Three things around the state are not replicated and take time or work as
// arguments: hashing (HashPassword and CheckPassword, slow on purpose, done by the
// member that the client asked), the table of simple tokens (Tokens, filled from
// every Authenticate entry so that a token is good on every member), and signed
// tokens (JWT), which need no table.
//
// Order of calls: Open; Init once before the first change, inside a unit; then
// changes as they are committed. Readers may be any goroutine.
package auth
