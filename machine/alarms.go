package machine

import (
	"cmp"
	"fmt"
	"slices"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/backend"
)

// alarms are the raised alarms: sorted by member and type, replaced and never
// changed, so that readers need no lock.
type alarms struct {
	now atomic.Pointer[[]*pb.AlarmMember]
}

func compareAlarms(a, b *pb.AlarmMember) int {
	return cmp.Or(cmp.Compare(a.MemberID, b.MemberID), cmp.Compare(a.Alarm, b.Alarm))
}

func (a *alarms) load(b *backend.Backend) error {
	var all []*pb.AlarmMember
	var bad error
	err := b.Scan(BucketAlarm, nil, nil, func(k, _ []byte) bool {
		one := &pb.AlarmMember{}
		if bad = proto.Unmarshal(k, one); bad != nil {
			bad = fmt.Errorf("decode key %x of bucket %s: %w", k, BucketAlarm, bad)
			return false
		}
		all = append(all, one)
		return true
	})
	slices.SortFunc(all, compareAlarms)
	a.now.Store(&all)
	if bad != nil {
		return bad
	}
	return err
}

// raised reports whether any member has an alarm of the type.
func (a *alarms) raised(t pb.AlarmType) bool {
	for _, one := range *a.now.Load() {
		if one.Alarm == t {
			return true
		}
	}
	return false
}

// list returns the alarms of a type, of all with NONE.
func (a *alarms) list(t pb.AlarmType) []*pb.AlarmMember {
	var out []*pb.AlarmMember
	for _, one := range *a.now.Load() {
		if t == pb.AlarmType_NONE || one.Alarm == t {
			out = append(out, one)
		}
	}
	return out
}

// set raises or clears one alarm and reports whether that changed anything.
func (a *alarms) set(b *backend.Backend, one *pb.AlarmMember, active bool) bool {
	all := *a.now.Load()
	i, has := slices.BinarySearchFunc(all, one, compareAlarms)
	if has == active {
		return false
	}
	key := api.Append(nil, one) // etcd's key is the message
	all = slices.Clone(all)
	if active {
		all = slices.Insert(all, i, one)
		b.Put(BucketAlarm, key, []byte{})
	} else {
		all = slices.Delete(all, i, i+1)
		b.Delete(BucketAlarm, key)
	}
	a.now.Store(&all)
	return true
}

func (m *Machine) alarm(c *call) error {
	var r pb.AlarmRequest
	if err := api.Unmarshal(c.body, &r); err != nil {
		return err
	}
	resp := &pb.AlarmResponse{}
	one := &pb.AlarmMember{MemberID: r.MemberID, Alarm: r.Alarm}
	switch r.Action {
	case pb.AlarmRequest_GET:
		resp.Alarms = m.alarms.list(r.Alarm)
	case pb.AlarmRequest_ACTIVATE:
		if r.Alarm == pb.AlarmType_NONE {
			break // its key could be empty, which no database takes
		}
		if m.alarms.set(m.b, one, true) {
			c.effect(AlarmChanged{Alarm: one, Active: true})
		}
		resp.Alarms = []*pb.AlarmMember{one}
	case pb.AlarmRequest_DEACTIVATE:
		if m.alarms.set(m.b, one, false) {
			c.effect(AlarmChanged{Alarm: one, Active: false})
			resp.Alarms = []*pb.AlarmMember{one}
		}
	default:
		return c.refuse(api.ErrUnknownMethod)
	}
	return c.answer(nil, func() proto.Message {
		resp.Header = m.header()
		return resp
	})
}
