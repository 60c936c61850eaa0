#!/bin/sh
# Called by mmdebstrap with the finished root: makes a Debian root a host that boots in namespaces with the
# article's services. What is done here and not at boot is part of the pristine state, so a scenario's diff of
# /etc holds only what happened on the host.
set -eu
root=$1

echo dom0 >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 dom0.example.org dom0\n' >"$root/etc/hosts"
printf 'auto lo\niface lo inet loopback\n' >"$root/etc/network/interfaces"
# Without an id systemd takes the first boot for an installation and runs preset-all over the packages' choices.
echo 5f0e1d2c3b4a59687786958493a2b1c0 >"$root/etc/machine-id"
echo 'root:' | chroot "$root" chpasswd -e
mkdir -p "$root/media/debs"

# Debian's inetd script starts nothing unless a line is active. auth is the article's port 113.
cat >>"$root/etc/inetd.conf" <<'INETD'
discard		stream	tcp	nowait	root	internal
daytime		stream	tcp	nowait	root	internal
ident		stream	tcp	nowait	nobody	/usr/sbin/identd	identd
INETD

# rpc.statd ran on the article's host. Today it starts only where it is asked for.
sed -i 's/^NEED_STATD=.*/NEED_STATD=yes/' "$root/etc/default/nfs-common"
grep -q '^NEED_STATD=yes' "$root/etc/default/nfs-common" || echo NEED_STATD=yes >>"$root/etc/default/nfs-common"

if [ -e "$root/etc/inittab" ]; then
    ln -sf /proc/mounts "$root/etc/mtab" # else the first boot makes it
    # No virtual terminals in a namespace: their gettys would respawn for ever. The console's own tells, as the
    # last entry of the runlevel, that the start scripts are through.
    sed -i 's/^[1-6]:2.*getty/#&/' "$root/etc/inittab"
    echo 'co:2345:respawn:/sbin/getty --noclear --keep-baud console 115200,38400,9600 linux' >>"$root/etc/inittab"
else
    ln -sf ../proc/self/mounts "$root/etc/mtab" # likewise
    # Mounting rpc_pipefs is refused in a namespace, and one failed unit makes the whole host `degraded`.
    ln -sf /dev/null "$root/etc/systemd/system/run-rpc_pipefs.mount"
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    ln -sf /lib/systemd/system/rpc-statd.service "$root/etc/systemd/system/multi-user.target.wants/"
    # The image is up to date: no caches are rebuilt, and noted in /etc, at each first boot.
    touch "$root/etc/.updated" "$root/var/.updated"
fi

rm -f "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/resolv.conf
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*_*
