# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# How the test guests' initramfs are laid out and packed: sourced by the scripts that
# make one (tests/boot/make-guest, tests/nested/make-guest, tests/machine/build-image).

# busybox_tree TREE BUSYBOX APPLET...: a new tree with the mount points and these commands.
busybox_tree() {
    local tree=$1 busybox=$2 applet
    shift 2
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,proc,sys,dev,tmp}
    install -m 755 "$busybox" "$tree/bin/busybox"
    for applet; do
        ln -s busybox "$tree/bin/$applet"
    done
}

# cpio_of TREE: the tree as the kernel unpacks it, on stdout.
cpio_of() {
    (cd "$1" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0)
}

# pack TREE FILE: packs and removes the tree; FILE appears only when it is complete.
pack() {
    cpio_of "$1" | gzip -9n > "$2.new"
    mv "$2.new" "$2"
    rm -rf "$1"
}
