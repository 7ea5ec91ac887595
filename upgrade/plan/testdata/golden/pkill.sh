pkill -9 etcd
cp -r /var/lib/etcd /backup/etcd
mv /var/lib/etcd /var/lib/etcd.old
