// Package embed starts a whole member, its listeners included, inside a Go
// program. It is also what `theseus serve` runs.
//
//	cfg := config.New()
//	cfg.DataDir = "/var/lib/theseus"
//	m, err := embed.Start(cfg)
//	if err != nil { ... }
//	<-m.Ready()
//	defer m.Close()
//
// A member that must not start, or not yet, is started all the same: it serves that
// answer on every port, looks again every second, and Ready stays open until it is let
// in (see server.Gate).
//
// Start binds every port before it touches the data directory, so that a port
// that is taken changes nothing. Close hands leadership over first, while the
// listeners still serve, then ends every stream and releases the directory.
package embed
