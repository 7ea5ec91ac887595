// Package lease holds leases, their TTLs and which keys are attached to them.
//
// It has no clock: a lease here is what the cluster agreed on, and when it expires
// is for the primary lessor to say, which lives in server and asks for a revoke
// through consensus. The rooms that own the keys are not known here either: Revoke
// says which keys to delete, and machine deletes them in the same backend unit.
//
// All methods that change something belong to one writer, which calls them within
// a unit of the backend (backend.Begin and End), so that a crash leaves either the
// whole effect of an entry or nothing of it. Methods that read may be called by
// any goroutine at any time.
//
// Attachments are not stored: they are in the keys' own records, and the caller of
// Open attaches each live key again while it restores them.
package lease
