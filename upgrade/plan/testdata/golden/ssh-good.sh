ssh a etcdctl endpoint health --cluster
ssh a etcdctl snapshot save /backup/x.db
ssh a sudo systemctl restart etcd
until ssh a etcdctl endpoint health --cluster; do sleep 1; done
