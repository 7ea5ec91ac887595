etcdctl snapshot save b.db
for h in a b c; do
  systemctl restart etcd
done
etcdctl endpoint health
