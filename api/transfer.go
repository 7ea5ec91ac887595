package api

// TransferAhead is the metadata key of a MoveLeader request to a member that does not
// lead: another one is about to move the leadership. With any value, Theseus keeps
// proposals back until there is a new leader, instead of forwarding them to one that
// drops them, and answers ErrNotLeader as etcd does.
const TransferAhead = "theseus-transfer-ahead"
