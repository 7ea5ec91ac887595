ssh a etcdctl snapshot save /backup/x.db
for h in a b c; do
  ssh $SSH_OPTS root@$h "systemctl restart etcd"
done
for h in a b c; do
  ssh root@$h systemctl restart etcd
  until ssh root@$h etcdctl endpoint health --cluster; do sleep 1; done
done
