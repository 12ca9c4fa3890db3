# Keeps a cluster: holds the machine-wide lock (this shell's parent took it), makes the namespaces that everything lives
# in, waits for their end and removes what the kernel does not remove by itself. It begins by removing what an earlier
# cluster may have left that was ended together with its keeper.
#
# Standard input is a pipe from whoever wants the cluster: when that ends, however it ends, everything in the PID
# namespace is killed by the kernel. The line "keep" on it makes the cluster outlive its maker.
set -u
state=$1

clean() {
    # What was just killed may take a moment to leave its cgroups.
    for _ in $(seq 200); do
        find /sys/fs/cgroup -maxdepth 2 -type d -name 'ocicat-lab-*' 2>/dev/null |
            while read -r top; do find "$top" -depth -type d -exec rmdir {} + 2>/dev/null; done
        [ -n "$(find /sys/fs/cgroup -maxdepth 2 -type d -name 'ocicat-lab-*' 2>/dev/null)" ] || break
        sleep 0.05
    done
    rm -rf --one-file-system -- "$state"
}

clean
mkdir -p -m 755 "$state" || exit 1
setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child bash -c '
    mount -t proc proc /proc && ip link set lo up || exit 1
    echo ready
    while read -r line; do
        if [ "$line" = keep ]; then
            sleep infinity &
            wait
        fi
    done' ocicat-lab
clean
