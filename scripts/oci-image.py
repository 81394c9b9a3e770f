#!/usr/bin/env python3
"""Makes an OCI image archive without docker.

    oci-image.py ARCHIVE NAME:TAG [--entrypoint JSON] [--cmd JSON] [--user U] [--env K=V]... [--label K=V]... LAYER...

A LAYER is

    tar:FILE                            an uncompressed tar
    DEST=SRC[:MODE][,DEST=SRC...]       files, each with its directories; an empty SRC makes a directory
    link:DEST=TARGET                    (in the same list) a symbolic link

The same input makes the same bytes.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import tarfile

CREATED = "1970-01-01T00:00:00Z"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive")
    parser.add_argument("name")
    parser.add_argument("layers", nargs="+")
    parser.add_argument("--entrypoint", type=json.loads)
    parser.add_argument("--cmd", type=json.loads)
    parser.add_argument("--user", default="")
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--label", action="append", default=[])
    return parser.parse_intermixed_args()


class FileLayer:
    """A layer made of single files."""

    def __init__(self):
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w", format=tarfile.GNU_FORMAT)
        self.directories = set()

    def directory(self, path):
        if not path or path in self.directories:
            return
        self.directory(os.path.dirname(path))
        self.directories.add(path)
        entry = tarfile.TarInfo(path)
        entry.type = tarfile.DIRTYPE
        entry.mode = 0o1777 if path == "tmp" else 0o755
        self.tar.addfile(entry)

    def link(self, path, target):
        self.directory(os.path.dirname(path))
        entry = tarfile.TarInfo(path)
        entry.type = tarfile.SYMTYPE
        entry.linkname = target
        self.tar.addfile(entry)

    def file(self, path, source, mode):
        self.directory(os.path.dirname(path))
        with open(source, "rb") as file:
            content = file.read()
        entry = tarfile.TarInfo(path)
        entry.size = len(content)
        entry.mode = mode
        self.tar.addfile(entry, io.BytesIO(content))

    def add(self, item):
        is_link = item.startswith("link:")
        path, source = item.removeprefix("link:").split("=", 1)
        path = path.lstrip("/")
        if is_link:
            self.link(path, source)
        elif not source:
            self.directory(path)
        else:
            mode = "755"
            if ":" in source:
                source, mode = source.rsplit(":", 1)
            self.file(path, source, int(mode, 8))

    def bytes(self):
        self.tar.close()
        return self.buffer.getvalue()


def layer(text):
    if text.startswith("tar:"):
        with open(text.removeprefix("tar:"), "rb") as file:
            return file.read()
    files = FileLayer()
    for item in text.split(","):
        files.add(item)
    return files.bytes()


class Image:
    """The blobs of an image, by digest."""

    def __init__(self):
        self.blobs = {}

    def blob(self, content, media_type):
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(content)}

    def json(self, value, media_type):
        return self.blob(json.dumps(value).encode(), media_type)

    def write(self, archive, index):
        # Written beside it and renamed: an archive is whole or is not there.
        with tarfile.open(archive + ".new", "w", format=tarfile.GNU_FORMAT) as tar:
            files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
            files.update(("blobs/sha256/" + digest, blob) for digest, blob in self.blobs.items())
            files["index.json"] = json.dumps(index).encode()
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size = len(content)
                entry.mode = 0o644
                tar.addfile(entry, io.BytesIO(content))
        os.replace(archive + ".new", archive)


def main():
    arguments = parse_arguments()
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    image = Image()
    layers = [image.blob(layer(text), "application/vnd.oci.image.layer.v1.tar") for text in arguments.layers]
    config = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] + arguments.env, "WorkingDir": "/"}
    if arguments.entrypoint:
        config["Entrypoint"] = arguments.entrypoint
    if arguments.cmd:
        config["Cmd"] = arguments.cmd
    if arguments.user:
        config["User"] = arguments.user
    if arguments.label:
        config["Labels"] = dict(label.split("=", 1) for label in arguments.label)
    described = image.json(
        {
            "architecture": architecture,
            "os": "linux",
            "created": CREATED,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [part["digest"] for part in layers]},
            "history": [{"created": CREATED, "created_by": "oci-image.py"} for _ in layers],
        },
        "application/vnd.oci.image.config.v1+json",
    )
    media_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = image.json(
        {"schemaVersion": 2, "mediaType": media_type, "config": described, "layers": layers}, media_type
    )
    manifest["platform"] = {"architecture": architecture, "os": "linux"}
    manifest["annotations"] = {
        "io.containerd.image.name": arguments.name,
        "org.opencontainers.image.ref.name": arguments.name.rsplit(":", 1)[-1],
    }
    image.write(arguments.archive, {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]})
    size = sum(map(len, image.blobs.values()))
    print(f"{arguments.archive}: {arguments.name} {manifest['digest']} {size / 1e6:.1f} MB")


main()
