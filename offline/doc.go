// Package offline is the command line for a stopped member's data directory and
// for snapshot files: `theseus offline ...`, and etcdutl 3.7 under that name, with
// its flags, output and exit codes.
//
// The commands read files of etcd 3.1 to 3.7 and of this server. Those that only
// look (snapshot status, hashkv, verify) open every file read-only. Those that
// write need the directory for themselves and wait for its lock as long as
// --timeout says.
//
//	code := offline.Main([]string{"snapshot", "status", "backup.db"}, os.Stdin, os.Stdout, os.Stderr)
//
// What a crash leaves behind: restore makes its directories under temporary names
// and renames them last; defrag and migrate leave the old or the new database.
package offline
