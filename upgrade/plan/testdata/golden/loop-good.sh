set -e
etcdctl endpoint health
etcdctl snapshot save b.db
systemctl restart etcd
until etcdctl endpoint health --cluster; do sleep 1; done
