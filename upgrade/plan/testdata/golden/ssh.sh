ssh root@a 'rm -rf /var/lib/etcd'
ssh root@b "$CMD"
$RUN stop
rm -rf "$DIR"
. ./lib.sh
