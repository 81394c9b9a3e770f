#!/usr/bin/env bash
# Runs a command as root of a throw-away guest that boots another kernel.
#
#   scripts/run-in-kernel.sh KERNEL [--mem 2G] [--cpus 2] [--timeout SECONDS] [--console] -- COMMAND...
#   scripts/run-in-kernel.sh KERNEL --prepare
#
#   KERNEL  6.1 or 6.12 (the newest such Debian package that apt knows), or an exact one: 6.1.0-56-amd64
#   --prepare   only fetch and unpack; prints the kernel's full name
#   --console   the guest's console on stderr
#
# The guest sees this machine's files, in the same directory; what it writes vanishes with it. It has loopback only. The
# command's stdout, stderr and exit status are passed on; stdin is empty. 124: ran past --timeout. 125: no status, as
# after a panic.
#
# QEMU interprets the guest (TCG), so it works where there is no KVM; a shell is up after some 5 s. Unpacked kernels are
# kept in OXILIUM_KERNELS (default ~/.cache/oxilium/kernels), 0.5 GB each.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${OXILIUM_KERNELS:-${XDG_CACHE_HOME:-$HOME/.cache}/oxilium/kernels}
PATH="$PATH:/usr/sbin:/sbin"

die() { printf 'run-in-kernel: %s\n' "$*" >&2; exit 125; }

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 125; }

kernel='' mem=2G cpus=2 timeout=300 console='' prepare=''
while [ $# -gt 0 ]; do
    case $1 in
        --mem) mem=${2:?}; shift 2 ;;
        --cpus) cpus=${2:?}; shift 2 ;;
        --timeout) timeout=${2:?}; shift 2 ;;
        --console) console=1; shift ;;
        --prepare) prepare=1; shift ;;
        --) shift; break ;;
        -*) usage ;;
        *) [ -z "$kernel" ] || usage; kernel=$1; shift ;;
    esac
done
[ -n "$kernel" ] || usage
[ -n "$prepare" ] || [ $# -gt 0 ] || usage
for tool in qemu-system-x86_64 busybox depmod modprobe python3; do
    command -v "$tool" >/dev/null || die "$tool is not installed: scripts/setup.sh kernels"
done

# ---- Which kernel: without its full name, the newest one of that series; not one for clouds (they lack 9p).

newest() { grep -vE -- '-(cloud|rt)-|-unsigned|-dbg' | sort -V | tail -n1; }

full_name() {
    case $1 in *-amd64) printf '%s\n' "$1"; return ;; esac
    local series=${1//./\\.} found
    found=$(find "$cache" -mindepth 2 -maxdepth 2 -path "$cache/$1.*/ready" -printf '%P\n' 2>/dev/null | cut -d/ -f1 | newest)
    [ -n "$found" ] || found=$(apt-cache search --names-only "^linux-image-${series}[.][0-9].*-amd64\$" |
        sed -n 's/^linux-image-\([^ ]*\) .*/\1/p' | newest)
    [ -n "$found" ] || die "apt knows no linux-image-$1.*-amd64: run apt-get update, or the series is not in this Debian"
    printf '%s\n' "$found"
}

# ---- Fetch, unpack, find what the guest needs to reach its root; once per kernel.

unpack() { # unpack NAME DIRECTORY
    local name=$1 to=$2 module file
    (
        cd "$to"
        # The sandbox user cannot write here.
        apt-get -o APT::Sandbox::User=root -qq download "linux-image-$name" >&2 ||
            die "apt-get cannot download linux-image-$name: run apt-get update"
        dpkg -x linux-image-*.deb .
        rm -f linux-image-*.deb
        [ ! -d usr/lib/modules ] || { mkdir -p lib; mv usr/lib/modules lib/; }
    )
    # Debian ships no modules.dep.
    depmod -b "$to" "$name"
    python3 "$here/guest/vmlinux.py" "$to/boot/vmlinuz-$name" "$to/vmlinux"
    mkdir -p "$to/initramfs/bin" "$to/initramfs/modules"
    cp "$(command -v busybox)" "$to/initramfs/bin/busybox"
    for module in virtio_pci virtio_console 9pnet_virtio 9p overlay; do
        modprobe -d "$to" -S "$name" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
    done | awk '!seen[$0]++' | while read -r file; do
        module=$(basename "${file%%.ko*}").ko
        case $file in
            *.xz) xz -dc "$file" ;;
            *.zst) zstd -dcq "$file" ;;
            *) cat "$file" ;;
        esac >"$to/initramfs/modules/$module"
        printf '%s\n' "$module" >>"$to/initramfs/modules/order"
    done
    archive "$to/initramfs" >"$to/initramfs.cpio"
    rm -rf "$to/initramfs" "$to/boot/System.map-$name" "$to/usr"
    : >"$to/ready"
}

archive() { (cd "$1" && find . | busybox cpio -o -H newc 2>/dev/null); }

prepare_kernel() { # prepare_kernel NAME
    [ ! -e "$cache/$1/ready" ] || return 0
    mkdir -p "$cache"
    (
        exec 9>"$cache/lock"
        flock 9
        [ ! -e "$cache/$1/ready" ] || exit 0
        printf 'run-in-kernel: fetching %s\n' "$1" >&2
        half=$(mktemp -d "$cache/half.XXXXXX")
        trap 'rm -rf "$half"' EXIT
        chmod 755 "$half"
        unpack "$1" "$half"
        rm -rf "${cache:?}/$1"
        mv "$half" "$cache/$1"
    )
}

kernel=$(full_name "$kernel")
directory=$cache/$kernel
prepare_kernel "$kernel"
if [ -n "$prepare" ]; then printf '%s\n' "$kernel"; exit 0; fi

# ---- One run. The command goes in with a second archive behind the kernel's own.

run=$(mktemp -d "${TMPDIR:-/tmp}/run-in-kernel.XXXXXX")
trap 'rm -rf "$run"' EXIT
mkdir "$run/initramfs"
cp "$here/guest/init" "$here/guest/main" "$run/initramfs/"
chmod +x "$run/initramfs/init"
printf '%s\n' "$directory/lib/modules/$kernel" >"$run/initramfs/modules-directory"
{
    # What decides how the tests behave goes along; the rest of the environment is this machine's.
    for name in PATH HOME LANG RUST_BACKTRACE RUST_LOG ${!OXILIUM_@}; do
        [ -z "${!name+set}" ] || printf 'export %s=%q\n' "$name" "${!name}"
    done
    printf 'export TERM=dumb\ncd %q || exit 125\nexec' "$PWD"
    printf ' %q' "$@"
    printf '\n'
} >"$run/initramfs/command"
{ cat "$directory/initramfs.cpio"; archive "$run/initramfs"; } >"$run/initramfs.cpio"
: >"$run/status"
: >"$run/console"

chardevs=(-device virtio-serial-pci)
for port in 6:out 7:err; do
    chardevs+=(-chardev "file,id=${port#*:},path=/dev/fd/${port%:*}"
        -device "virtserialport,chardev=${port#*:},name=${port#*:}")
done
chardevs+=(-chardev "file,id=status,path=$run/status" -device "virtserialport,chardev=status,name=status")
if [ -n "$console" ]; then console_path=/dev/fd/7; else console_path=$run/console; fi

machine() {
    timeout --foreground -k 5 "$timeout" qemu-system-x86_64 \
        -M q35 -accel tcg -cpu max -smp "$cpus" -m "$mem" -display none -nodefaults -no-reboot \
        -kernel "$directory/vmlinux" -initrd "$run/initramfs.cpio" \
        -append "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off random.trust_cpu=on cryptomgr.notests" \
        -chardev "file,id=console,path=$console_path" -serial chardev:console -device virtio-rng-pci \
        -fsdev local,id=host,path=/,security_model=none,multidevs=remap,readonly=on \
        -device virtio-9p-pci,fsdev=host,mount_tag=host \
        "${chardevs[@]}" </dev/null >/dev/null 2>"$run/qemu"
}

# QEMU truncates a regular file that it is given as an output; so the guest's go through cat.
ended=0
exec 4>&1 5>&2
{ { { machine 6>&1 7>&8 || echo $? >"$run/ended"; } | cat >&4; } 8>&1 | cat >&5; } || true
[ ! -s "$run/ended" ] || ended=$(cat "$run/ended")

status=$(sed -n 's/^status //p' "$run/status")
if [ -n "$status" ]; then exit "$status"; fi
case $ended in
    124 | 137) printf 'run-in-kernel: %s ran past %s s\n' "$kernel" "$timeout" >&2; tail -n5 "$run/console" >&2; exit 124 ;;
esac
cat "$run/qemu" >&2
tail -n40 "$run/console" >&2
die "$kernel ended without a status (QEMU: $ended)"
