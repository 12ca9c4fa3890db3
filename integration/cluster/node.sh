# Puts itself into cgroups of the node's own and becomes its first process. Given: NAME, STATE, CGROUP.
# Runs in the cluster's PID and mount namespaces, with the machine's cgroups still in view.
set -euo pipefail
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p "/sys/fs/cgroup/$CGROUP"
    echo $$ > "/sys/fs/cgroup/$CGROUP/cgroup.procs"
else
    while read -r _ dir type _; do
        [ "$type" = cgroup ] || continue
        mkdir -p "$dir/$CGROUP"
        if [ -e "$dir/cpuset.cpus" ]; then
            # A new group has none, and no process may enter it then.
            for file in cpuset.cpus cpuset.mems; do cat "$dir/$file" > "$dir/$CGROUP/$file"; done
        fi
        echo $$ > "$dir/$CGROUP/cgroup.procs"
    done < /proc/mounts
fi
exec unshare --net --mount --uts --ipc --cgroup --pid --fork --kill-child bash "$STATE/node-init.sh"
