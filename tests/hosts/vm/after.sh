#!/bin/sh
# Called by mmdebstrap with the finished root, after the hosts' own customize.sh: makes it a Domain-0 that boots
# from a disk, with a guest that counts on its console and the agent that runs what the tests ask for.
set -eu
root=$1
here=$(cd "$(dirname "$0")" && pwd)
kernel=$(basename "$root"/lib/modules/*)

printf 'LABEL=root / ext4 errors=remount-ro 0 1\n' >"$root/etc/fstab"
printf 'virtio_console\nvirtio_net\n' >>"$root/etc/modules"
cat >>"$root/etc/network/interfaces" <<'INTERFACES'

auto eth0
iface eth0 inet dhcp
INTERFACES

# The agent. systemd gets it by the kernel's arguments, so that no link below /etc starts it: a link there would be
# one more finding. sysvinit has only its own table.
install -m 755 "$here/agent.py" "$root/usr/local/sbin/harness-agent"
if [ -e "$root/etc/inittab" ]; then
    echo 'ha:2345:respawn:/usr/local/sbin/harness-agent' >>"$root/etc/inittab"
else
    cat >"$root/etc/systemd/system/harness-agent.service" <<'UNIT'
[Unit]
Description=The test harness's agent
DefaultDependencies=no
After=systemd-modules-load.service
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/local/sbin/harness-agent
Restart=always
RestartSec=0.2
KillMode=process
UNIT
    # A start that lasts is no start that hangs, where the processor is emulated and has to share the real one.
    mkdir -p "$root/etc/systemd/system.conf.d"
    printf '[Manager]\nDefaultTimeoutStartSec=15min\n' >"$root/etc/systemd/system.conf.d/harness.conf"
fi

# The guest: the Domain-0's own kernel, and an initramfs of nothing but a shell that counts.
guest=$root/usr/local/lib/ticker
mkdir -p "$guest/initramfs/bin"
cp "$root/bin/busybox" "$guest/initramfs/bin/"
cat >"$guest/initramfs/init" <<'INIT'
#!/bin/busybox sh
count=0
while :; do
    count=$((count + 1))
    echo "tick $count"
    /bin/busybox sleep 1
done
INIT
chmod 755 "$guest/initramfs/init"
chroot "$root" sh -c 'cd /usr/local/lib/ticker/initramfs && find . | cpio --quiet -o -H newc | gzip >../initrd.gz'
rm -r "$guest/initramfs"

mkdir -p "$root/etc/xen/auto"
cat >"$root/etc/xen/ticker.cfg" <<CONFIG
name = "ticker"
type = "pv"
kernel = "/boot/vmlinuz-$kernel"
ramdisk = "/usr/local/lib/ticker/initrd.gz"
extra = "console=hvc0 quiet"
memory = 96
vcpus = 1
CONFIG
ln -s ../ticker.cfg "$root/etc/xen/auto/ticker.cfg"

# What the guest says is kept in /var/log/xen/console (where there is such a folder): to look there attaches nothing
# to the guest.
mkdir -p "$root/var/log/xen/console"
sed -i '/^XENCONSOLED_ARGS=/d' "$root/etc/default/xen"
echo 'XENCONSOLED_ARGS=--log=guest' >>"$root/etc/default/xen"
