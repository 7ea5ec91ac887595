ssh -p 22 root@$host rm -rf /var/lib/etcd
ssh $h systemctl restart etcd
ssh h sudo -u etcd bash -s <<END
date
rm -rf /var/lib/etcd
END
bash -x script.sh
ssh root@b "$CMD"
