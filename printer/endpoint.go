package printer

import (
	"fmt"
	"math"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Health is what a probe of one endpoint found.
type Health struct {
	Endpoint string `json:"endpoint"`
	Health   bool   `json:"health"`
	Took     string `json:"took"` // a time.Duration
	Error    string `json:"error,omitempty"`
}

// EndpointHealth is the health of several endpoints. In the simple format, whose
// bad news go to stderr, the caller writes the lines itself with [Health.Line].
func EndpointHealth(all []Health) Result {
	return Result{
		fields: func(t *text) {
			for _, h := range all {
				t.quoted("Endpoint", h.Endpoint)
				t.field("Health", h.Health)
				t.field("Took", h.Took)
				t.field("Error", h.Error)
				t.line()
			}
		},
		table: func() *table {
			tb := &table{headers: []string{"ENDPOINT", "HEALTH", "TOOK", "ERROR"}}
			for _, h := range all {
				tb.rows = append(tb.rows, []string{h.Endpoint, fmt.Sprint(h.Health), h.Took, h.Error})
			}
			return tb
		},
		json: all,
	}
}

// Line is the simple form, without a line feed.
func (h Health) Line() string {
	if h.Error == "" {
		return fmt.Sprintf("%s is healthy: successfully committed proposal: took = %s", h.Endpoint, h.Took)
	}
	return fmt.Sprintf("%s is unhealthy: failed to commit proposal: %s", h.Endpoint, h.Error)
}

// Status is the status of one endpoint.
type Status struct {
	Endpoint string                   `json:"Endpoint"`
	Status   *clientv3.StatusResponse `json:"Status"`
}

// EndpointStatus is the status of several endpoints.
func EndpointStatus(all []Status) Result {
	return Result{
		simple: func(t *text) {
			for _, s := range all {
				t.line(strings.Join(statusRow(s), ", "))
			}
		},
		fields: func(t *text) {
			for _, s := range all {
				fieldsStatus(t, s)
			}
		},
		table: func() *table {
			tb := &table{headers: []string{
				"ENDPOINT", "ID", "VERSION", "STORAGE VERSION", "DB SIZE", "IN USE", "PERCENTAGE NOT IN USE", "QUOTA",
				"IS LEADER", "IS LEARNER", "RAFT TERM", "RAFT INDEX", "RAFT APPLIED INDEX", "ERRORS",
				"DOWNGRADE TARGET VERSION", "DOWNGRADE ENABLED",
			}}
			for _, s := range all {
				tb.rows = append(tb.rows, statusRow(s))
			}
			return tb
		},
		json: all,
	}
}

func statusRow(s Status) []string {
	r := s.Status
	return []string{
		s.Endpoint,
		fmt.Sprintf("%x", r.Header.GetMemberId()),
		r.Version,
		r.StorageVersion,
		Bytes(r.DbSize),
		Bytes(r.DbSizeInUse),
		notInUse(r.DbSize, r.DbSizeInUse),
		Bytes(r.DbSizeQuota),
		fmt.Sprint(r.Leader == r.Header.GetMemberId()),
		fmt.Sprint(r.IsLearner),
		fmt.Sprint(r.RaftTerm),
		fmt.Sprint(r.RaftIndex),
		fmt.Sprint(r.RaftAppliedIndex),
		strings.Join(r.Errors, ", "),
		r.DowngradeInfo.GetTargetVersion(),
		fmt.Sprint(r.DowngradeInfo.GetEnabled()),
	}
}

func fieldsStatus(t *text, s Status) {
	r := s.Status
	fieldsHeader(t, r.Header)
	t.quoted("Version", r.Version)
	t.quoted("StorageVersion", r.StorageVersion)
	t.field("DBSize", r.DbSize)
	t.field("DBSizeInUse", r.DbSizeInUse)
	t.field("DBSizeQuota", r.DbSizeQuota)
	t.field("Leader", r.Leader)
	t.field("IsLearner", r.IsLearner)
	t.field("RaftIndex", r.RaftIndex)
	t.field("RaftAppliedIndex", r.RaftAppliedIndex)
	t.field("Errors", r.Errors)
	t.quoted("Endpoint", s.Endpoint)
	t.quoted("DowngradeTargetVersion", r.DowngradeInfo.GetTargetVersion())
	t.field("DowngradeEnabled", r.DowngradeInfo.GetEnabled())
	t.line()
}

// notInUse is the share of the file that a defragmentation would give back, rounded up.
func notInUse(size, used int64) string {
	if size <= 0 {
		return "0%"
	}
	return fmt.Sprintf("%d%%", int(math.Ceil((1-float64(used)/float64(size))*100)))
}

// KeyHash is the HashKV of one endpoint.
type KeyHash struct {
	Endpoint string                   `json:"Endpoint"`
	HashKV   *clientv3.HashKVResponse `json:"HashKV"`
}

// EndpointHashKV is the HashKV of several endpoints.
func EndpointHashKV(all []KeyHash) Result {
	rows := make([][]string, len(all))
	for i, h := range all {
		rows[i] = []string{h.Endpoint, fmt.Sprint(h.HashKV.Hash), fmt.Sprint(h.HashKV.HashRevision)}
	}
	return Result{
		simple: func(t *text) {
			for _, row := range rows {
				t.line(strings.Join(row, ", "))
			}
		},
		fields: func(t *text) {
			for _, h := range all {
				fieldsHeader(t, h.HashKV.Header)
				t.quoted("Endpoint", h.Endpoint)
				t.field("Hash", h.HashKV.Hash)
				t.field("HashRevision", h.HashKV.HashRevision)
				t.line()
			}
		},
		table: func() *table { return &table{headers: []string{"ENDPOINT", "HASH", "HASH REVISION"}, rows: rows} },
		json:  all,
	}
}

// Bytes writes a size with a decimal unit and two or three digits: 0 B, 20 kB, 2.1 GB.
func Bytes(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	if n < 10 {
		return fmt.Sprintf("%d B", max(n, 0))
	}
	e := int(math.Floor(math.Log(float64(n)) / math.Log(1000)))
	v := math.Floor(float64(n)/math.Pow(1000, float64(e))*10+0.5) / 10
	if v < 10 {
		return fmt.Sprintf("%.1f %s", v, units[e])
	}
	return fmt.Sprintf("%.0f %s", v, units[e])
}
