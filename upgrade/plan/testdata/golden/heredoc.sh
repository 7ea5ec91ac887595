cat > /etc/systemd/system/etcd.service <<EOF
[Service]
ExecStart=/usr/bin/etcd --data-dir=/d --enable-v2
EOF

