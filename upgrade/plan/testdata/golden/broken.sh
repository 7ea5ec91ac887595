if true; then
  rm -rf /var/lib/etcd
