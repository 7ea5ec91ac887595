package upgrade

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"theseus/backup"
	"theseus/upgrade/plan"
)

// backupSources are the members that a backup may be taken from, the best first: well,
// level with the furthest, a voter, and rather a follower, since the image is read from
// the disk that the leader needs for everybody's writes.
func backupSources(f plan.Facts) []plan.Member {
	var all []plan.Member
	for _, m := range f.Members {
		if m.Err == "" && m.Healthy && m.Leader != 0 && !m.Learner {
			all = append(all, m)
		}
	}
	leads := func(m plan.Member) int {
		if m.ID == m.Leader {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(all, func(a, b plan.Member) int {
		near := cmp.Compare(f.Lag(a)/levelEntries, f.Lag(b)/levelEntries)
		return cmp.Or(near, cmp.Compare(leads(a), leads(b)), cmp.Compare(f.Lag(a), f.Lag(b)))
	})
	return all
}

// levelEntries is a lag that comes and goes while members are asked one after another.
const levelEntries = 100

// backupTries is how many members are asked before a backup is given up.
const backupTries = 3

// TakeBackup takes a backup of the inventory's cluster from a member that is up to date
// and proves it. Another member is tried when one cannot send its image, or when the
// cluster was compacted meanwhile; what is found to differ is never tried again.
func TakeBackup(ctx context.Context, inv *Inventory, progress func(backup.Progress)) (backup.Manifest, error) {
	if inv.Backup.Archive == "" {
		return backup.Manifest{}, errors.New("the inventory names no archive: add backup: {archive: \"dir:/var/backups/etcd\"}")
	}
	f, err := Gather(ctx, inv, nil)
	if err != nil {
		return backup.Manifest{}, err
	}
	sources := backupSources(f)
	if len(sources) == 0 {
		return backup.Manifest{}, errors.New("no member is well enough to take a backup from: see theseus upgrade check")
	}
	var m backup.Manifest
	for i := range backupTries {
		from := sources[i%len(sources)]
		m, err = takeFrom(ctx, inv, from.Endpoint, progress)
		if err == nil || ctx.Err() != nil || errors.Is(err, backup.ErrDiffers) || errors.Is(err, backup.ErrNoRoom) {
			break
		}
	}
	return m, err
}

// takeFrom takes it from one member.
func takeFrom(ctx context.Context, inv *Inventory, endpoint string, progress func(backup.Progress)) (backup.Manifest, error) {
	c, err := inv.Client(endpoint)
	if err != nil {
		return backup.Manifest{}, fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	defer func() { _ = c.Close() }()
	return backup.Take(ctx, backup.Options{
		Archive: inv.Backup.Archive, Cluster: inv.Cluster, Source: c, Endpoint: endpoint,
		Witnesses: inv.Endpoints(), Tool: backup.Tool(), Progress: progress,
	})
}
