package upgrade

import (
	"theseus/upgrade/host"
)

// Inventory is the one file that every verb reads. Keys that it does not know are errors.
type Inventory struct {
	Cluster string            `json:"cluster"`
	Members []InventoryMember `json:"members"`
	TLS     TLS               `json:"tls"`
	Auth    Auth              `json:"auth"`
	Backup  struct {
		Archive string `json:"archive"` // dir:/path
	} `json:"backup"`
	Target Program   `json:"target"`
	Hops   []Program `json:"hops,omitempty"` // of the versions on the way, when the target needs them
	Limits struct {
		Stall   string `json:"stall,omitempty"`
		Catchup string `json:"catchup,omitempty"`
		Stop    string `json:"stop,omitempty"`
	} `json:"limits"`
	Kubernetes struct {
		APIServers []string `json:"apiservers,omitempty"` // versions, or https URLs whose /version is asked
	} `json:"kubernetes"`
	State string `json:"state,omitempty"` // directory of plan, journal and summary; default: upgrade-<cluster> beside the inventory
}

// InventoryMember is one member: how it is reached and how it is run.
type InventoryMember struct {
	Name     string    `json:"name"`
	Endpoint string    `json:"endpoint"`
	Host     host.Spec `json:"host"`
}

// TLS are the client's files.
type TLS struct {
	CACert     string `json:"cacert,omitempty"`
	Cert       string `json:"cert,omitempty"`
	Key        string `json:"key,omitempty"`
	SkipVerify bool   `json:"insecureSkipVerify,omitempty"`
}

// Auth is a login, if the cluster wants one. The password is read from a file.
type Auth struct {
	User         string `json:"user,omitempty"`
	PasswordFile string `json:"passwordFile,omitempty"`
}

// Program is a binary or an image and, where the program cannot be asked for it, its version.
type Program struct {
	Binary  string `json:"binary,omitempty"`
	Image   string `json:"image,omitempty"`
	Version string `json:"version,omitempty"`
}
