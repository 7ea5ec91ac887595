#!/bin/sh
set -e
etcdctl snapshot save /backup/x.db > /dev/null 2>&1
etcdctl endpoint health --cluster >> /var/log/upgrade.log
: > /var/lib/etcd/member/snap/db
echo ETCD_NAME=x > /etc/default/etcd
> "$TARGET"
date &> /tmp/when
sudo tee /etc/etcd.service <<EOF
[Service]
ExecStart=/usr/bin/etcd --name s1 --data-dir /var/lib/etcd --enable-v2
EOF
cat > /etc/odd <<EOF
anything
EOF
