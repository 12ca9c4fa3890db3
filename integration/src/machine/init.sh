#!/bin/sh
# The first process of a machine: gives it the file systems of its own, loads what tests need, runs the command, powers off.
# SHARED is the folder that we share with the host, MODULES the kernel's modules.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# What is seen at these places before may be the host's, by the root file system.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
ln -sfn /proc/self/fd /dev/fd
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/lock /run/shared /run/modules/lib/modules
mount -t hostfs -o "$SHARED" none /run/shared
# All that is shown or told from here on is ours, but for the folders of the host's /tmp that the command is in.
mkdir /run/host-tmp
mount --bind /tmp /run/host-tmp
mount -t tmpfs tmpfs /tmp
while IFS= read -r name; do
    mkdir -p "/tmp/$name"
    mount --bind "/run/host-tmp/$name" "/tmp/$name"
done < /run/shared/shown
umount /run/host-tmp
mount -t cgroup2 cgroup /sys/fs/cgroup 2> /dev/null

# The kernel's modules are not where modprobe looks, and that place may not even exist; the kernel asks it too.
ln -s "$MODULES" /run/modules/lib/modules/
printf '#!/bin/sh\nexec modprobe -d /run/modules "$@"\n' > /run/modules/modprobe
chmod 755 /run/modules/modprobe
echo /run/modules/modprobe > /proc/sys/kernel/modprobe
modprobe -d /run/modules -qa ipv6 veth bridge tun overlay ipip vxlan nf_tables
ip link set lo up

env -i PATH="$PATH" bash /run/shared/command < /dev/null >> /run/shared/output 2>&1
echo $? > /run/shared/status
sync
echo o > /proc/sysrq-trigger
sleep 10
