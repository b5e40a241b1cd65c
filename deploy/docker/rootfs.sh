#!/bin/sh
# Collects what a binary needs that has neither shell nor package manager beside it: the C and C++ libraries of this
# image, certificates, time zones, a user. The final images hold this, the binary, and nothing else.
#
#   rootfs.sh DIR        run by the Dockerfile in the image that the binaries are linked in, so that libraries fit them
set -eu

root=$1
user=65532

mkdir -p "$root/etc/ssl/certs" "$root/usr/share" "$root/app/bin" "$root/tmp" "$root/var/lib/leafcutter"
chmod 1777 "$root/tmp"
chown "$user:$user" "$root/var/lib/leafcutter" # a new volume takes its owner from the folder that it is mounted on

# The loader is where binaries name it. MuPDF is linked in and wants libm; ONNX Runtime wants libstdc++; purego, which
# the command line is built with, wants libdl. dl, pthread and rt are empty since glibc 2.34, but are still asked for.
for loader in /lib64/ld-linux-x86-64.so.2 /lib/ld-linux-aarch64.so.1; do
	[ ! -e "$loader" ] || { mkdir -p "$root${loader%/*}" && cp -L "$loader" "$root$loader"; }
done
for name in libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libresolv.so.2 libgcc_s.so.1 libstdc++.so.6; do
	for found in /lib/*-linux-gnu/$name /usr/lib/*-linux-gnu/$name; do
		[ -e "$found" ] || continue
		mkdir -p "$root${found%/*}" && cp -L "$found" "$root$found"
		break
	done
	[ -e "$found" ] || { echo "rootfs: no $name in this image" >&2; exit 1; }
done

cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
[ ! -d /usr/share/zoneinfo ] || cp -R /usr/share/zoneinfo "$root/usr/share/"
echo "leafcutter:x:$user:$user::/var/lib/leafcutter:/none" >"$root/etc/passwd"
echo "leafcutter:x:$user:" >"$root/etc/group"
echo "hosts: files dns" >"$root/etc/nsswitch.conf"
