package machine

import (
	"fmt"
	"regexp"
	"strconv"

	"theseus/api"
	"theseus/member"
)

// attributesPath is where a member of 3.5 or older publishes itself.
var attributesPath = regexp.MustCompile(`^/0/members/([0-9a-f]{1,16})/attributes$`)

// legacy applies a v2 request (interop 6.3). etcd up to 3.5 publishes members and
// the cluster version by them, and health probes leave some that do nothing.
func (m *Machine) legacy(c *call, data []byte) error {
	var r api.LegacyRequest
	if err := r.UnmarshalEntry(data); err != nil {
		return err
	}
	c.res.ID = r.ID
	plain := r.PrevExist == nil && r.PrevIndex == 0 && r.PrevValue == ""
	switch {
	case r.Method == "QGET" || r.Method == "GET" || r.Method == "HEAD":
		return nil
	case r.Method == "SYNC":
		m.members.V2().Expire(r.Time)
		return nil
	case r.Method == "PUT" && plain && r.Path == "/0/version":
		return m.setVersion(c, r.Val)
	case r.Method == "PUT" && plain:
		if id := attributesPath.FindStringSubmatch(r.Path); id != nil {
			return m.legacyAttributes(c, id[1], r.Val)
		}
	}
	c.res.Err = m.members.ApplyV2(&r)
	c.effect(LegacyRequest{Method: r.Method, Path: r.Path})
	return nil
}

func (m *Machine) legacyAttributes(c *call, hexID, value string) error {
	id, err := strconv.ParseUint(hexID, 16, 64)
	if err != nil {
		return fmt.Errorf("publish member %s: %w", hexID, err)
	}
	name, clientURLs, err := member.ParseAttributes(value)
	if err != nil {
		return fmt.Errorf("publish member %s: %w", hexID, err)
	}
	return m.setAttributes(c, id, name, clientURLs)
}
