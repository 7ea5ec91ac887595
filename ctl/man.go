package ctl

// page is the manual of one command under our own name. CTL in the examples stands
// for that name.
type page struct{ text, examples string }

const manRoot = `Reads, writes and watches keys, and looks after a running Theseus or etcd cluster.

Commands may be shortened as long as they stay unambiguous: mem li is member list.
Every flag that all commands share can stand in the environment instead: ETCDCTL_ENDPOINTS
is --endpoints. Results go to stdout and everything else to stderr. The exit code is 0 for
success, 1 for a failure, and 2 for a command line that makes no sense.`

// manual is by the words of the command.
var manual = map[string]page{
	"get": {`Shows the value of a key, or the keys and values of a range: [key, range_end) with two
arguments, the keys that begin with key with --prefix, or all from key on with --from-key.

The answer is the newest that the cluster has agreed on. --consistency s takes what the
member at the other end has, which may be older but needs no majority. --rev reads a past
revision, as long as it is not compacted.`,
		`# one key
CTL get greeting

# all keys below a prefix, without their values
CTL get /config/ --prefix --keys-only

# how many keys there are
CTL get "" --prefix --count-only -w fields

# a value as it was, ready for a pipe
CTL get greeting --rev 5 --print-value-only`},
	"put": {`Sets a key to a value, given as an argument or on stdin, and makes a new revision.
A key or value that begins with a dash comes after "--".

With --lease the key is deleted when the lease ends; without it the key loses the lease it had.`,
		`CTL put greeting hello

# the content of a file
CTL put config < config.yaml

# a key that goes away with its lease
CTL put session alive --lease 694d7ba1fcebd7dd

# touch a key: same value, new revision
CTL put greeting --ignore-value`},
	"del": {`Deletes a key, or the keys of a range as for get, and says how many there were.
A range_end without --range waits two seconds, in which the command can be interrupted.`,
		`CTL del greeting

# everything below a prefix, showing what is lost
CTL del /config/ --prefix --prev-kv

# keys from a up to, but not including, c
CTL del a c --range`},
	"txn": {`Runs several operations as one: all or none, at one revision. It reads three blocks of
lines from stdin, each ended by an empty line: conditions, the operations when all of them
hold, and the operations when one does not.

A condition is target("key") op "value", where target is value, version, create, mod or
lease, and op is = != < or >. An operation is a get, put or del with its flags. Words may
be in double quotes with Go's escapes, or in single quotes as they stand.`,
		`# set a key only if it is not there
CTL txn <<'END'
version("lock") = "0"

put lock mine

get lock

END

# with prompts
CTL txn -i`},
	"watch": {`Shows changes of a key, a range or (--prefix) a prefix as they happen, until it is
interrupted. --rev starts in the past. With "-- command" the command runs once for every
change, with ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY, ETCD_WATCH_VALUE and
ETCD_WATCH_REVISION in its environment; watch ends when the command fails.

With -i it reads lines "watch ..." and "progress" from stdin.`,
		`CTL watch /config/ --prefix

# every change since revision 17, with what was there before
CTL watch greeting --rev 17 --prev-kv

# reload a service when its configuration changes
CTL watch /config/ --prefix -- systemctl reload frontend`},
	"compaction": {`Gives up the history before a revision: older revisions can no longer be read or watched,
and their space can be reused. With --physical it waits until they are removed from disk.`,
		`# keep only the present
CTL compaction $(CTL get "" -w fields --prefix --count-only | awk -F' : ' '/Revision/{print $2}') --physical`},
	"lease": {`Leases are times to live that keys can be attached to: when a lease is not renewed in
time, or is revoked, its keys are deleted. Ids are hexadecimal.`, ``},
	"lease grant": {`Makes a lease of ttl seconds and shows its id.`,
		`CTL lease grant 60`},
	"lease revoke": {`Ends a lease and deletes the keys attached to it.`,
		`CTL lease revoke 694d7ba1fcebd7dd`},
	"lease timetolive": {`Shows how long a lease still has, and with --keys the keys attached to it.`,
		`CTL lease timetolive 694d7ba1fcebd7dd --keys`},
	"lease list": {`Lists the ids of all leases.`, `CTL lease list`},
	"lease keep-alive": {`Renews a lease every third of its time until it is interrupted or the lease ends.
With --once it renews the lease and returns.`,
		`CTL lease keep-alive 694d7ba1fcebd7dd`},
	"member": {`Who is in the cluster. Add and remove one member at a time, and wait until the others are
healthy again. Ids are hexadecimal, as in member list.`, ``},
	"member add": {`Adds a member and shows the settings to start it with. A voter counts for the majority at
once, even before it is started; a learner (--learner) first catches up and is then promoted.`,
		`CTL member add m4 --learner --peer-urls=http://10.0.0.4:2380`},
	"member remove": {`Removes a member for good: it stops, and can come back only as a new one, with an empty
data directory.`,
		`CTL member remove a79271003ef0bfcb`},
	"member update": {`Changes the peer URLs of a member, before it moves to another address.`,
		`CTL member update a79271003ef0bfcb --peer-urls=http://10.0.0.5:2380`},
	"member list": {`Lists the members: id, started or not, name, peer URLs, client URLs, learner or not.`,
		`CTL member list -w table

# from one member that has lost the others
CTL member list --consistency s`},
	"member promote": {`Makes a voter of a learner that has caught up with the leader.`,
		`CTL member promote a79271003ef0bfcb`},
	"endpoint": {`Looks at the members behind --endpoints, or with --cluster at all members.`, ``},
	"endpoint health": {`Asks every endpoint for a read that needs a majority, and for alarms. A single unhealthy
endpoint makes the exit code 1.`,
		`CTL endpoint health --cluster`},
	"endpoint status": {`Shows of every endpoint: id, version, storage version, size of the database and how much of
it is in use, leader or not, learner or not, raft term and indexes, errors, downgrade.`,
		`CTL endpoint status --cluster -w table`},
	"endpoint hashkv": {`Shows a hash over all keys and their history. At the same revision members of the same
cluster have the same hash, unless data is corrupt.`,
		`CTL endpoint hashkv --cluster --rev 1200`},
	"snapshot": {`Backups of a running member. What is done with the file afterwards is done offline:
theseus offline snapshot status, theseus offline snapshot restore.`, ``},
	"snapshot save": {`Fetches the whole database of one member and writes it to a file, which appears under its
name only when it is complete and its checksum is right.`,
		`CTL snapshot save backup.db

# of one member of several
CTL --endpoints 10.0.0.1:2379 snapshot save backup-$(date +%Y%m%d).db`},
	"alarm": {`Alarms stop a cluster from doing harm: NOSPACE when the database has reached its quota,
CORRUPT when members disagree. They stay until they are disarmed.`, ``},
	"alarm list":   {`Lists the alarms that are raised.`, `CTL alarm list`},
	"alarm disarm": {`Ends all alarms. Make room first: compaction, then defrag.`, `CTL alarm disarm`},
	"defrag": {`Gives the space that compactions have freed back to the file system, one member after the
other. Raise --command-timeout for large databases.`,
		`CTL defrag --cluster --command-timeout 60s`},
	"move-leader": {`Hands the leadership to another member. The leader has to be among the endpoints.`,
		`CTL --endpoints 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 move-leader c89feb932daef420`},
	"downgrade": {`Prepares a cluster for members of the next lower minor version. Each member is restarted
with the older version once the downgrade is enabled.`, ``},
	"downgrade validate": {`Checks whether the cluster may be downgraded to a version.`, `CTL downgrade validate 3.6`},
	"downgrade enable":   {`Starts the downgrade to a version.`, `CTL downgrade enable 3.6`},
	"downgrade cancel":   {`Ends the downgrade that is under way.`, `CTL downgrade cancel`},
	"lock": {`Takes a lock that everybody who uses the same name respects, and waits while another has
it. With a command it holds the lock while the command runs, with ETCD_LOCK_KEY and
ETCD_LOCK_REV in its environment, and exits as the command does. Without one it shows the
key and holds the lock until it is interrupted. A lock outlives a killed holder by --ttl
seconds.`,
		`CTL lock nightly -- ./nightly-job.sh`},
	"elect": {`Stands for election with a proposal, waits to be elected, shows the key and stays in office
until it is interrupted. With -l it shows who is elected, now and later.`,
		`CTL elect scheduler host-a

CTL elect -l scheduler`},
	"make-mirror": {`Copies the keys below a prefix to another cluster, and every change to them as it happens,
until it is interrupted. Changes of one revision stay together. Every 30 seconds it says
how many keys it has written. With --rev it copies nothing and starts with the changes of
that revision.`,
		`CTL make-mirror --prefix /config/ standby.example.com:2379`},
	"auth": {`Authentication of clients by user and password, or by certificate.`, ``},
	"auth enable": {`Turns authentication on. The user root has to exist; the role root is made and given to it
if need be.`,
		`CTL user add root
CTL auth enable`},
	"auth disable": {`Turns authentication off: everybody may do everything.`, `CTL --user root auth disable`},
	"auth status":  {`Shows whether authentication is on.`, `CTL auth status`},
	"user":         {`Users have passwords and roles.`, ``},
	"user add": {`Makes a user. The password is asked for, or read from a line of stdin with
--interactive=false; with --no-password the user can only come with a certificate.`,
		`CTL user add ann

echo "$PASSWORD" | CTL user add ann --interactive=false`},
	"user delete":      {`Deletes a user.`, `CTL user delete ann`},
	"user get":         {`Shows the roles of a user, and with --detail what they permit.`, `CTL user get ann --detail`},
	"user list":        {`Lists the users.`, `CTL user list`},
	"user passwd":      {`Changes the password of a user.`, `CTL user passwd ann`},
	"user grant-role":  {`Gives a role to a user.`, `CTL user grant-role ann reader`},
	"user revoke-role": {`Takes a role from a user.`, `CTL user revoke-role ann reader`},
	"role":             {`Roles permit reading and writing keys.`, ``},
	"role add":         {`Makes a role, which permits nothing yet.`, `CTL role add reader`},
	"role delete":      {`Deletes a role, and takes it from the users that have it.`, `CTL role delete reader`},
	"role get":         {`Shows what a role permits.`, `CTL role get reader`},
	"role list":        {`Lists the roles.`, `CTL role list`},
	"role grant-permission": {`Permits a role to read, write or readwrite a key, the keys [key, endkey), those that begin
with key (--prefix), or all from key on (--from-key).`,
		`CTL role grant-permission reader read /config/ --prefix`},
	"role revoke-permission": {`Takes a permission back. The range has to be the one that was granted.`,
		`CTL role revoke-permission reader /config/ --prefix`},
	"check": {`Puts load on a cluster to learn what it can do. Do not run these where the load matters.`, ``},
	"check perf": {`Writes for a minute at the rate of a workload (s 150, m 1000, l 8000, xl 15000 writes a
second) and passes if the cluster keeps up, evenly. The keys are deleted afterwards.`,
		`CTL check perf --load m --auto-compact --auto-defrag`},
	"check datascale": {`Writes the keys of a workload (s 10 thousand, m 100 thousand, l 1 million, xl 3 million
keys of 1 KiB) and shows how much memory they took. The keys are deleted afterwards.`,
		`CTL check datascale --load m --auto-compact --auto-defrag`},
	"version": {`Prints the version of the protocol that this program speaks.`, `CTL version`},
	"options": {`Lists the flags that all commands share.`, `CTL options`},
}
