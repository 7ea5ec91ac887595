#!/bin/sh
# "Just change the tag and run it on all three masters." Do not: this is what make demo
# lets theseus upgrade review read.
ETCD_VERSION=v3.7.3
DATA=/var/lib/etcd

docker rm -f etcd
rm -rf $DATA/*
docker run -d --name etcd --restart=always --network=host -v $DATA:/etcd-data \
  quay.io/coreos/etcd:$ETCD_VERSION etcd --name s1 --data-dir /var/lib/etcd-data \
  --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://10.0.0.1:2380 \
  --listen-peer-urls http://0.0.0.0:2380 --initial-advertise-peer-urls http://10.0.0.1:2380 \
  --initial-cluster s1=http://10.0.0.1:2380,s2=http://10.0.0.2:2380,s3=http://10.0.0.3:2380 \
  --initial-cluster-state new --enable-v2
