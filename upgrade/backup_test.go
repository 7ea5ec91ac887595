package upgrade

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"theseus/upgrade/plan"
)

// TestBackupSources ranks the members that a backup may be taken from.
func TestBackupSources(t *testing.T) {
	m := func(name string, id, index uint64, more func(*plan.Member)) plan.Member {
		m := plan.Member{Name: name, ID: id, Leader: 1, Healthy: true, Index: index, Applied: index}
		if more != nil {
			more(&m)
		}
		return m
	}
	f := plan.Facts{Members: []plan.Member{
		m("leader", 1, 1000, nil),
		m("follower", 2, 990, nil),
		m("late", 3, 500, nil),
		m("dead", 4, 0, func(m *plan.Member) { m.Err = "gone" }),
		m("sick", 5, 1000, func(m *plan.Member) { m.Healthy = false }),
		m("learner", 6, 1000, func(m *plan.Member) { m.Learner = true }),
		m("alone", 7, 1000, func(m *plan.Member) { m.Leader = 0 }),
	}}
	var got []string
	for _, s := range backupSources(f) {
		got = append(got, s.Name)
	}
	if diff := cmp.Diff([]string{"follower", "leader", "late"}, got); diff != "" {
		t.Error(diff)
	}
}
