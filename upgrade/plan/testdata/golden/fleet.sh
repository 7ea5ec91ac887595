pdsh -w a,b,c systemctl restart etcd
ansible etcd -m shell -a "systemctl restart etcd"
ansible etcd -m systemd -a "name=etcd state=restarted"
ls | xargs -n 1 rm -rf /var/lib/etcd
