// Command v33 is the real etcd 3.3 server, built to be tested against.
package main

import "github.com/coreos/etcd/etcdmain"

func main() { etcdmain.Main() }
