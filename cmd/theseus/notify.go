package main

import (
	"net"
	"os"
	"strings"

	"theseus/embed"
)

// notifyReady tells a supervisor that waits for it (systemd's Type=notify) that the
// member serves clients. A member that is held before it has entered its cluster is
// told too: it serves its reason, and a supervisor that timed out would make a restart
// loop of it.
func notifyReady(m *embed.Member) {
	if m.Server() != nil {
		select {
		case <-m.Ready():
		case <-m.Done():
			return
		}
	}
	if err := notify("READY=1"); err != nil {
		m.Log().Warn("the supervisor was not told that the member is ready: " + err.Error())
	}
}

// notify sends state to the socket that the supervisor named, if it named one.
func notify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	if after, ok := strings.CutPrefix(name, "@"); ok {
		name = "\x00" + after // a socket of the abstract namespace
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte(state))
	if closed := conn.Close(); err == nil {
		err = closed
	}
	return err
}
