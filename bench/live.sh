#!/bin/sh
# The first process of a contender's own namespaces: makes a tree the running host's root, and the contender its only
# service. Called by bench, by nobody else: sh live.sh TREE STAGED COMMAND...
set -eu
tree=$1 staged=$2
shift 2
mount --bind "$tree" "$tree"
cd "$tree"
mkdir -p dev proc sys staged usr
for name in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name" ] && ! [ -L "$name" ]; then cp -P "/$name" .
    elif [ -d "/$name" ] && ! [ -L "/$name" ]; then mkdir -p "$name"; mount --bind -o ro "/$name" "$name"; fi
done
mount --bind -o ro /usr usr
mount --bind -o ro "$staged" staged
mount -t proc proc proc
for name in null zero random urandom; do
    [ -e "dev/$name" ] || : >"dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
for name in passwd group services ld.so.cache; do
    [ -e "etc/$name" ] || cp -L "/etc/$name" "etc/$name"
done
[ -d etc/alternatives ] || { mkdir etc/alternatives; mount --bind -o ro /etc/alternatives etc/alternatives; }
if command -v ip >/dev/null; then ip link set lo up; fi
exec chroot . /bin/sh -c 'cd /; "$@" & wait; wait' contender "$@"
