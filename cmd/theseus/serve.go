package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"theseus/config"
	"theseus/embed"
	"theseus/server"
	"theseus/version"
)

// serve runs a member until a signal or its removal from the cluster. Like etcd
// it ends by the signal it was sent, so that supervisors see the same status.
func serve(args []string) int {
	cfg, err := config.Parse(args, os.Environ(), os.ReadFile)
	switch {
	case errors.Is(err, config.ErrHelp):
		fmt.Print(config.Usage())
		return 0
	case errors.Is(err, config.ErrVersion):
		fmt.Printf("etcd Version: %s\nGit SHA: theseus-%s\nGo Version: %s\nGo OS/Arch: %s/%s\n",
			version.Current, embed.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return 0
	case err != nil:
		return refuse(err)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	m, err := embed.Start(cfg)
	if err != nil {
		return refuse(err)
	}
	go notifyReady(m)
	select {
	case s := <-signals:
		m.Log().Info("received signal; shutting down")
		err := m.Close()
		signal.Reset()
		if err != nil {
			return refuse(err)
		}
		return reraise(s.(syscall.Signal))
	case <-m.Done():
		err := m.Err()
		_ = m.Close()
		if err == nil || errors.Is(err, server.ErrRemoved) {
			fmt.Fprintln(os.Stderr, "theseus: the member has been permanently removed from the cluster: its data directory is of no more use to it; add it again with `theseus ctl member add` and an empty directory")
			return 0
		}
		return refuse(err)
	}
}

// reraise ends the process by the signal, except as process 1, which the kernel
// shields from it.
func reraise(s syscall.Signal) int {
	if os.Getpid() == 1 {
		return 0
	}
	_ = syscall.Kill(os.Getpid(), s)
	select {} // the signal ends us
}

// refuse says in one line what is wrong and what to do.
func refuse(err error) int {
	fmt.Fprintf(os.Stderr, "theseus: %v\n", err)
	var usage *config.UsageError
	if errors.As(err, &usage) {
		fmt.Fprintln(os.Stderr, "Try 'theseus serve --help'.")
		return 2
	}
	return 1
}
