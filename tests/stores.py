# SPDX-License-Identifier: MIT
"""Makes stores as people have them (hub caches, GGUF files in parts, changed copies of a demo model)
and reads them."""

import hashlib
import json
import os
import shutil
import struct

import gguf

from conftest import DATA, run


def hub(store, repo, revision, source, main=False, mtime=None):
    """Adds a snapshot to a hub cache: links to blobs that are named by hashes, large files by
    SHA-256. Returns the snapshot's folder."""
    model = store / f"models--{repo.replace('/', '--')}"
    snapshot = model / "snapshots" / revision
    for folder in (model / "blobs", model / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        data = path.read_bytes()
        kind = hashlib.sha256 if path.suffix in (".safetensors", ".gguf") else hashlib.sha1
        blob = model / "blobs" / kind(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    if mtime:
        os.utime(snapshot, (mtime, mtime))
    if main:
        (model / "refs" / "main").write_text(revision)
    return snapshot


def edit(folder, **config):
    """Changes a model's config."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


def plain(tmp_path, name, **config):
    """A folder of that name with a demo model, its config changed."""
    folder = tmp_path / "plain" / name
    shutil.copytree(DATA / "demo-qwen2", folder)
    edit(folder, **config)
    return folder


def read_gguf(mnt, model, recipe="Q4_K_M"):
    """A file of gguf/, which is named after the last part of the model's name alone."""
    base = model.split("/")[-1].split("@")[0]
    return (mnt / model / "gguf" / f"{base}-{recipe}.gguf").read_bytes()


def listed(store):
    """name -> what `ls --json` says of a model."""
    return {m["name"]: m for m in json.loads(run("ls", "--json", store).stdout)}


def write_gguf(path, source, tensors, keys, more):
    """A GGUF file with some of the tensors of `source`, its keys if `keys`, and `more` raw ones."""
    fields = [f for name, f in source.fields.items() if keys and not name.startswith("GGUF.")]
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(fields) + len(more))
    header += b"".join(part.tobytes() for f in fields for part in f.parts) + b"".join(more)
    at, data = 0, b""
    for t in tensors:
        header += struct.pack(f"<Q{len(t.name)}sI{len(t.shape)}QIQ", len(t.name), t.name.encode(),
                              len(t.shape), *t.shape.tolist(), t.tensor_type, at)
        data += t.data.tobytes()
        data += bytes(-len(data) % 32)
        at = len(data)
    path.write_bytes(header + bytes(-len(header) % 32) + data)


def number_key(name, kind, value):
    """A raw key of a metadata type."""
    form = {gguf.GGUFValueType.UINT16: "H", gguf.GGUFValueType.INT32: "i"}[kind]
    return struct.pack(f"<Q{len(name)}sI{form}", len(name), name.encode(), kind, value)


def write_split(folder, name, source, sizes):
    """Parts with so many tensors each, the last with the rest, as llama-gguf-split names and marks
    them."""
    folder.mkdir(exist_ok=True)
    reader, at, paths = gguf.GGUFReader(source), 0, []
    for i, size in enumerate(sizes):
        paths.append(folder / f"{name}-{i + 1:05}-of-{len(sizes):05}.gguf")
        marks = [number_key("split.no", gguf.GGUFValueType.UINT16, i),
                 number_key("split.count", gguf.GGUFValueType.UINT16, len(sizes)),
                 number_key("split.tensors.count", gguf.GGUFValueType.INT32, len(reader.tensors))]
        write_gguf(paths[-1], reader, reader.tensors[at:at + size], i == 0, marks)
        at += size
    return paths
