// Package history records what clients asked of a cluster and what they were
// told, and decides afterwards whether one store could have said all of it.
//
// Two judges: Linearizable gives the requests to porcupine with a small model
// of one key (value and modification revision), and CheckWatch holds watch
// streams against etcd's six guarantees: ordered, unique, atomic, reliable,
// resumable, bookmarkable. A request whose answer never came may have happened
// at any later time or not at all.
package history
