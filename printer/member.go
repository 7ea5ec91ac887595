package printer

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// MemberAdd is the answer to the addition of a member.
func MemberAdd(r *clientv3.MemberAddResponse) Result {
	m := (*pb.MemberAddResponse)(r)
	as := ""
	if m.Member.GetIsLearner() {
		as = " as learner"
	}
	return Result{
		simple: func(t *text) {
			t.printf("Member %16x added%s to cluster %16x\n", m.Member.GetID(), as, m.Header.GetClusterId())
		},
		json:    m,
		hexJSON: hexAnswer{hexHeaderOf(m.Header), hexMemberOf(m.Member), hexMembers(m.Members)},
		proto:   m,
	}
}

// MemberRemove is the answer to the removal of the member id.
func MemberRemove(id uint64, r *clientv3.MemberRemoveResponse) Result {
	m := (*pb.MemberRemoveResponse)(r)
	return memberChange(fmt.Sprintf("Member %16x removed from cluster %16x\n", id, m.Header.GetClusterId()), m, m.Header, m.Members)
}

// MemberUpdate is the answer to new peer URLs of the member id.
func MemberUpdate(id uint64, r *clientv3.MemberUpdateResponse) Result {
	m := (*pb.MemberUpdateResponse)(r)
	return memberChange(fmt.Sprintf("Member %16x updated in cluster %16x\n", id, m.Header.GetClusterId()), m, m.Header, m.Members)
}

// MemberPromote is the answer to the promotion of the learner id.
func MemberPromote(id uint64, r *clientv3.MemberPromoteResponse) Result {
	m := (*pb.MemberPromoteResponse)(r)
	return memberChange(fmt.Sprintf("Member %16x promoted in cluster %16x\n", id, m.Header.GetClusterId()), m, m.Header, m.Members)
}

func memberChange(said string, m message, h *pb.ResponseHeader, members []*pb.Member) Result {
	return Result{
		simple:  func(t *text) { t.printf("%s", said) },
		json:    m,
		hexJSON: hexAnswer{Header: hexHeaderOf(h), Members: hexMembers(members)},
		proto:   m,
	}
}

// MemberList is the list of members.
func MemberList(r *clientv3.MemberListResponse) Result {
	m := (*pb.MemberListResponse)(r)
	return Result{
		simple: func(t *text) {
			for _, row := range memberRows(m) {
				t.line(strings.Join(row, ", "))
			}
		},
		fields: func(t *text) { fieldsMembers(t, m) },
		table: func() *table {
			return &table{
				headers: []string{"ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"},
				rows:    memberRows(m),
			}
		},
		json:    m,
		hexJSON: hexAnswer{Header: hexHeaderOf(m.Header), Members: hexMembers(m.Members)},
		proto:   m,
	}
}

func memberRows(m *pb.MemberListResponse) [][]string {
	var rows [][]string
	for _, member := range m.Members {
		status := "started"
		if member.Name == "" {
			status = "unstarted"
		}
		rows = append(rows, []string{
			fmt.Sprintf("%x", member.ID), status, member.Name,
			strings.Join(member.PeerURLs, ","), strings.Join(member.ClientURLs, ","),
			fmt.Sprint(member.IsLearner),
		})
	}
	return rows
}

func fieldsMembers(t *text, m *pb.MemberListResponse) {
	fieldsHeader(t, m.Header)
	for _, member := range m.Members {
		t.id("ID", member.ID)
		t.quoted("Name", member.Name)
		for _, u := range member.PeerURLs {
			t.quoted("PeerURL", u)
		}
		for _, u := range member.ClientURLs {
			t.quoted("ClientURL", u)
		}
		t.field("IsLearner", member.IsLearner)
		t.line()
	}
}

// hexAnswer is the JSON of answers about members with ids in hexadecimal.
type hexAnswer struct {
	Header  *hexHeader   `json:"header,omitempty"`
	Member  *hexMember   `json:"member,omitempty"`
	Members []*hexMember `json:"members,omitempty"`
}

type hexHeader struct {
	ClusterID string `json:"cluster_id,omitempty"`
	MemberID  string `json:"member_id,omitempty"`
	Revision  int64  `json:"revision,omitempty"`
	RaftTerm  uint64 `json:"raft_term,omitempty"`
}

type hexMember struct {
	ID         string   `json:"ID,omitempty"`
	Name       string   `json:"name,omitempty"`
	PeerURLs   []string `json:"peerURLs,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
	IsLearner  bool     `json:"isLearner,omitempty"`
}

func hexHeaderOf(h *pb.ResponseHeader) *hexHeader {
	return &hexHeader{
		ClusterID: fmt.Sprintf("%x", h.GetClusterId()), MemberID: fmt.Sprintf("%x", h.GetMemberId()),
		Revision: h.GetRevision(), RaftTerm: h.GetRaftTerm(),
	}
}

func hexMemberOf(m *pb.Member) *hexMember {
	return &hexMember{
		ID: fmt.Sprintf("%x", m.GetID()), Name: m.GetName(), PeerURLs: m.GetPeerURLs(),
		ClientURLs: m.GetClientURLs(), IsLearner: m.GetIsLearner(),
	}
}

func hexMembers(members []*pb.Member) []*hexMember {
	var all []*hexMember
	for _, m := range members {
		all = append(all, hexMemberOf(m))
	}
	return all
}
