// Package backup takes full backups of a running cluster, over the wire, and proves
// each by restoring it: a file counts as a backup only after a scratch store that was
// made from it has the same hash as the live members at the same revision.
//
// An archive is a directory. A backup in it is two files, ID.db as a member sent it
// and ID.json, the manifest, written last: without a manifest there is no backup. What
// could not be proven is kept as ID.db.unproven. Nothing in an archive is overwritten,
// and no backup is ever removed.
//
// The caller names the member that the image is taken from; it ought to be one that is
// up to date. Real etcd 3.1 to 3.7 and Theseus are all the same to this package.
//
//	m, err := backup.Take(ctx, backup.Options{
//		Archive: "dir:/var/backups/etcd", Cluster: "prod",
//		Source: client, Endpoint: "https://10.0.0.1:2379", Witnesses: allEndpoints,
//	})
//
// A crash leaves ID.db.part, which no other call touches, or a scratch directory whose
// name begins with .proof-; both may be removed by hand. docs/format/archive.md has
// the files.
package backup
