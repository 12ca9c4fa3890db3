# First process of a node: arranges what it sees of the file system, then runs containerd, kubelet and kube-proxy as a
# service manager would: again when they end.
# Given: NAME, ADDRESS, STATE (the cluster's folder), LOGS, PROGRAMS (folder of the built programs), PROXY (yes or no),
# KUBELET, KUBE_PROXY (paths), RUNTIME (folder of containerd 2, or empty for the distribution's).
set -euo pipefail
node=$STATE/nodes/$NAME
hostname "$NAME"

# The node's disk is the machine's with a layer of its own above: nothing that is written here reaches the machine.
root=$node/root
fresh=no
[ -e "$node/upper" ] || fresh=yes
mkdir -p "$node/upper" "$node/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$node/upper,workdir=$node/work" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p run/lock run/netns
# What lies on another disk than / is not in the layer below.
for dir in "$STATE" "$LOGS" "$PROGRAMS"; do
    mkdir -p "./$dir"
    mount --bind "$dir" "./$dir"
done
# An overlay cannot be the upper layer of another, so that containerd's folder must be on the disk itself.
for dir in /var/lib/kubelet /var/lib/containerd; do
    mkdir -p "$node/disk$dir" "./$dir"
    mount --bind "$node/disk$dir" "./$dir"
done
# A new node has none of the files that the machine may have here; they are only hidden.
if [ "$fresh" = yes ]; then
    rm -rf var/lib/cni var/lib/calico var/log/pods var/log/containers var/log/calico etc/cni etc/calico opt/cni
fi
mkdir -p opt/cni/bin etc/cni/net.d
for plugin in loopback portmap bandwidth ptp bridge host-local static tuning; do
    [ -e "opt/cni/bin/$plugin" ] || cp "/usr/lib/cni/$plugin" opt/cni/bin/
done
mkdir -p .machine
pivot_root . .machine
cd /
umount -l /.machine
rmdir /.machine
# The kubelet's mounts for a pod must be seen by containerd, and those by the pod.
mount --make-rshared /

# Controllers belong to hierarchies of the whole machine. In a cgroup namespace the node's own groups look like the
# root of each, so that several kubelets do not meet.
if [ "$(stat -f -c %T /sys/fs/cgroup 2>/dev/null)" != cgroup2fs ] && grep -q '^[1-9][0-9]*:[a-z]' /proc/self/cgroup; then
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    while IFS=: read -r _ controllers _; do
        case $controllers in
            '') continue ;;
            name=*) dir=${controllers#name=} options=none,$controllers ;;
            *) dir=$controllers options=$controllers ;;
        esac
        mkdir "/sys/fs/cgroup/$dir"
        mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/$dir"
        case $dir in *,*) for one in ${dir//,/ }; do ln -s "$dir" "/sys/fs/cgroup/$one"; done ;; esac
    done < /proc/self/cgroup
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    # A group with processes in it cannot have groups with controllers below.
    mkdir -p /sys/fs/cgroup/init
    for pid in $(cat /sys/fs/cgroup/cgroup.procs); do echo "$pid" > /sys/fs/cgroup/init/cgroup.procs || true; done
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
    done
fi

# The kubelet wants these values and would set them for the whole machine: it finds them set.
mkdir -p "$node/sysctl"
while read -r key value; do
    [ -e "/proc/sys/$key" ] || continue
    echo "$value" > "$node/sysctl/${key//\//-}"
    mount --bind "$node/sysctl/${key//\//-}" "/proc/sys/$key"
done <<END
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END

# The network is made from outside.
until ip route show default | grep -q .; do sleep 0.02; done

# While a file of its name is in $node/stopped, a service stays down. Its process id is in $node/pid.
mkdir -p "$node/stopped" "$node/pid"
service() {
    local name=$1
    shift
    while true; do
        if [ ! -e "$node/stopped/$name" ]; then
            "$@" >> "$LOGS/$NAME-$name.log" 2>&1 < /dev/null &
            echo $! > "$node/pid/$name"
            wait $! || true
            rm -f "$node/pid/$name"
        fi
        sleep 0.1
    done
}
[ -z "$RUNTIME" ] || PATH=$RUNTIME:$PATH
service containerd containerd --config "$STATE/containerd.toml" &
until [ -S /run/containerd/containerd.sock ]; do sleep 0.02; done
service kubelet "$KUBELET" --config "$node/kubelet.yaml" --kubeconfig "$node/kubelet.kubeconfig" \
    --hostname-override "$NAME" --node-ip "$ADDRESS" --v=2 &
[ "$PROXY" = no ] || service kube-proxy "$KUBE_PROXY" --config "$node/proxy.yaml" --v=2 &
wait
