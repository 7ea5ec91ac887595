package tidy

// room is one package of the house and what it may import of ours. The word
// "internal" stands for every package under internal/, and a name also stands
// for the packages below it.
type room struct {
	name    string
	imports []string
	pure    bool // no go statement, clock, randomness, log or network
	spawns  bool // may contain a go statement
}

// belowServer is what server assembles.
var belowServer = []string{
	"api", "version", "wal", "snap", "backend", "mvcc", "lease", "auth", "member",
	"machine", "watch", "peer", "node", "internal",
}

// rooms is the table of docs/ARCHITECTURE.md.
var rooms = []room{
	{name: "api", pure: true},
	{name: "version", pure: true},
	{name: "config"},
	{name: "internal", imports: []string{"internal"}, spawns: true},
	{name: "wal", imports: []string{"internal"}},
	{name: "snap", imports: []string{"internal"}},
	{name: "backend", imports: []string{"internal"}, spawns: true},
	{name: "mvcc", imports: []string{"backend", "api", "internal"}, pure: true},
	{name: "lease", imports: []string{"backend", "api", "internal"}, pure: true},
	{name: "auth", imports: []string{"backend", "api", "internal"}, pure: true},
	{name: "member", imports: []string{"backend", "api", "version", "internal"}, pure: true},
	{name: "machine", imports: []string{"mvcc", "lease", "auth", "member", "backend", "version", "api", "internal"}, pure: true},
	{name: "watch", imports: []string{"mvcc", "api", "internal"}, spawns: true},
	{name: "peer", imports: []string{"snap", "version", "api", "internal"}, spawns: true},
	{name: "node", imports: []string{"wal", "snap", "internal"}, spawns: true},
	{name: "server", imports: belowServer, spawns: true},
	{name: "rpc", imports: []string{"server", "api", "version", "internal"}, spawns: true},
	{name: "httpapi", imports: []string{"api", "version"}},
	{name: "embed", imports: []string{"config", "server", "rpc", "httpapi", "internal"}, spawns: true},
	{name: "printer", imports: []string{"api"}},
	{name: "ctl", imports: []string{"printer", "api", "version"}, spawns: true},
	{name: "offline", imports: []string{"printer", "machine", "mvcc", "lease", "auth", "member", "backend", "wal", "snap", "version", "api", "internal"}},
	{name: "backup", imports: []string{"offline", "machine", "mvcc", "backend", "wal", "snap", "version", "api", "internal"}, spawns: true},
	{name: "upgrade/plan", imports: []string{"version"}, pure: true},
	{name: "upgrade/host", imports: []string{"internal"}, spawns: true},
	{name: "upgrade", imports: []string{"upgrade/plan", "upgrade/host", "backup", "version", "api", "internal"}, spawns: true},
	{name: "bench", imports: []string{"api"}, spawns: true},
	{name: "cmd", imports: []string{"*"}, spawns: true},
	{name: "test", imports: []string{"*"}, spawns: true},
}

// bannedNames are packages that say nothing of what is in them.
var bannedNames = []string{"util", "utils", "common", "types", "helpers", "misc"}

// impure are the imports a pure room must not have. The clock is looked for by
// its call (time.Now), since a duration is data.
var impure = []string{"math/rand", "math/rand/v2", "log", "log/slog", "net", "net/http", "os/exec", "go.uber.org/zap"}

// Limits of conventions.md, in lines.
const (
	maxFunctionLines = 70
	maxFileLines     = 800
)

// longFunctions are the exceptions to maxFunctionLines: the loop, the dispatch
// switch, and tables that are code. The key is "folder.Function".
var longFunctions = map[string]string{}

// longFiles are the exceptions to maxFileLines.
var longFiles = map[string]string{}
