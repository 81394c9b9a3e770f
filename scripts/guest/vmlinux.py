"""Takes the kernel out of its compressed image: vmlinux.py BZIMAGE VMLINUX.

QEMU boots an uncompressed kernel directly (PVH), which spares some seconds of emulated decompression. Header fields:
Documentation/arch/x86/boot.rst of the kernel (setup_sects 0x1f1, payload_offset 0x248, payload_length 0x24c).
"""

import struct
import subprocess
import sys

DECOMPRESSORS = {
    b"\xfd7zXZ\0": ["xz", "-dcq", "--single-stream"],
    b"\x1f\x8b": ["gzip", "-dcq"],
    b"\x28\xb5\x2f\xfd": ["zstd", "-dcq"],
    b"\x02\x21\x4c\x18": ["lz4", "-dcq"],
}


def main(image, target):
    with open(image, "rb") as file:
        data = file.read()
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = ((data[0x1F1] or 4) + 1) * 512 + offset
    payload = data[start : start + length]
    for magic, command in DECOMPRESSORS.items():
        if payload.startswith(magic):
            # The last four bytes are the length. Tools read to the end of the stream and then grumble about them: what
            # counts is what came out.
            done = subprocess.run(command, input=payload, capture_output=True)
            if done.stdout[:4] != b"\x7fELF":
                sys.exit(f"vmlinux.py: {command[0]} made no ELF file of {image}: {done.stderr.decode().strip()}")
            with open(target, "wb") as file:
                file.write(done.stdout)
            return
    sys.exit(f"vmlinux.py: the kernel in {image} is compressed in an unknown way ({payload[:6].hex()})")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
