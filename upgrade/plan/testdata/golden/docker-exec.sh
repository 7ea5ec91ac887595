docker exec etcd rm -rf /var/lib/etcd
docker -H tcp://a:2375 exec -e A=b etcd sh -c 'date
rm -rf /var/lib/etcd/member'
docker -H tcp://a:2375 exec web rm /etcd-note
docker exec etcd kill 1
docker exec -it etcd sh
kubectl -n kube-system exec etcd-0 -c etcd -- rm -rf /var/lib/etcd/member
