#!/bin/sh
# Called by mmdebstrap with the still empty root of a Domain-0: what must be there before the kernel's package is
# configured. An initramfs with every driver would take minutes to unpack where the processor is emulated.
set -eu
root=$1

mkdir -p "$root/etc/initramfs-tools/conf.d" "$root/usr/share/initramfs-tools/modules.d"
printf 'MODULES=list\nCOMPRESS=gzip\n' >"$root/etc/initramfs-tools/conf.d/harness"
printf '%s\n' virtio_pci virtio_blk ext4 crc32c_generic >"$root/usr/share/initramfs-tools/modules.d/harness"
