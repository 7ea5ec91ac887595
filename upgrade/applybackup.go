package upgrade

import (
	"context"
	"fmt"
)

// backupOf takes and proves a backup of the inventory's cluster, showing how far it is.
// It is nil when the inventory names no archive.
func backupOf(inv *Inventory) func(ctx context.Context) (string, error) {
	if inv.Backup.Archive == "" {
		return nil
	}
	return func(ctx context.Context) (string, error) {
		m, err := TakeBackup(ctx, inv, nil)
		if err != nil {
			return "", err
		}
		if m.Proven() == 0 {
			return "", fmt.Errorf("backup %s: no live member's hash proves it: see theseus upgrade check", m.ID)
		}
		return m.String(), nil
	}
}
