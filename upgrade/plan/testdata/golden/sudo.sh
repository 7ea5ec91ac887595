sudo -u etcd rm -rf /var/lib/etcd
nice -n 10 rm -rf /var/lib/etcd
env -u X A=b rm -rf /var/lib/etcd
timeout -k 5 10 su - etcd -c 'rm -rf /var/lib/etcd'
$SUDO rm -rf /var/lib/etcd
