#!/usr/bin/env python3
"""Writes the hand-made part of the fuzz corpora: test/fuzz/corpus/TARGET/seed-*.

    test/fuzz/make_seeds.py

What fuzzing adds to them (`make fuzz-merge`, crashes) has other names and is left alone. The formats of the
inputs are described at the head of each fuzz_TARGET.c.
"""
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(data)


# ---- safetensors ----


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def made(header, data):
    return b"H" + header + b"\xff" + data


def raw(header, data):
    return b"R" + struct.pack("<Q", len(header)) + header + data


def folder(index, *files):
    return b"F" + b"\xff".join([index] + [part for file in files for part in file])


def safetensors():
    a, b = tensor("F32", [2], 0, 8), tensor("BF16", [1, 3], 8, 14)
    header = compact({"__metadata__": {"format": "pt"}, "a": a, "b": b, "c": tensor("F16", [4, 0], 14, 14)})
    data = bytes(range(14))
    write("safetensors", "raw", raw(header, data))
    write("safetensors", "raw-padded", raw(header + b"   ", data))
    write("safetensors", "truncated", raw(header, data)[:-3])
    write("safetensors", "header-cut", raw(header, b"")[:40])
    write("safetensors", "header-0", raw(b"", data))
    write("safetensors", "header-huge", b"R" + b"\xff" * 8 + header)
    write("safetensors", "short", b"R1234567")
    write("safetensors", "good", made(header, data))
    write("safetensors", "none", made(b"{}", b""))
    for name, header, size in [
        ("overlap", compact({"a": a, "b": tensor("F32", [1], 4, 8)}), 8),
        ("gap", compact({"a": a, "b": tensor("F32", [1], 12, 16)}), 16),
        ("outside", compact({"a": tensor("F32", [2], 4, 12)}), 8),
        ("shape-negative", compact({"a": tensor("F32", [-2], 0, 8)}), 8),
        ("shape-overflow", compact({"a": tensor("F32", [1 << 32, 1 << 32], 0, 8)}), 8),
        ("shape-times-0", compact({"a": tensor("F32", [1 << 53, 1 << 53, 0], 0, 0)}), 0),
        ("shape-9", compact({"a": tensor("F32", [1] * 9, 0, 4)}), 4),
        ("scalar", compact({"a": tensor("F32", [], 0, 4)}), 4),
        ("dtype", compact({"a": tensor("I64", [1], 0, 8)}), 8),
        ("twice", b'{"a":%s,"a":%s}' % (compact(a), compact(tensor("F32", [2], 8, 16))), 16),
        ("key-twice", b'{"a":{"dtype":"F16","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8),
        ("metadata", compact({"__metadata__": {"format": 1}}), 0),
        ("metadata-twice", b'{"__metadata__":{},"__metadata__":{}}', 0),
        ("long-name", compact({"n" * 3000: tensor("I8", [1], 0, 1)}), 1),
        ("control-name", compact({"a\x1b[2J\n": tensor("I8", [1], 0, 1)}), 1),
        ("nul-name", b'{"a\\u0000b":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1),
        ("long-dtype", compact({"a": tensor("F" * 3000, [1], 0, 4)}), 4),
        ("array", b"[]", 0),
        ("deep", b"[" * 1200, 0),
        ("not-json", b'{"a":', 0),
    ]:
        write("safetensors", name, made(header, bytes(size)))

    one = compact({"a": tensor("F32", [1], 0, 4)}), bytes(4)
    two = compact({"b": tensor("F16", [1, 2], 0, 4)}), bytes(4)
    names = {"a": "a.safetensors", "b": "b.safetensors"}

    def index(weights):
        return compact({"metadata": {"total_size": 8}, "weight_map": weights})

    write("safetensors", "folder", folder(index(names), one, two))
    write("safetensors", "index-missing", folder(index(names | {"c": "b.safetensors"}), one, two))
    write("safetensors", "index-no-file", folder(index(names | {"c": "c.safetensors"}), one, two))
    write("safetensors", "index-outside", folder(index({"a": "../a.safetensors"}), one, two))
    write("safetensors", "index-long", folder(index({"a" * 1500: "s" * 1500}), one, two))
    write("safetensors", "index-twice", folder(b'{"weight_map":{"a":"a.safetensors","a":"a.safetensors"}}', one, two))
    write("safetensors", "index-swapped", folder(index({"a": "b.safetensors", "b": "a.safetensors"}), one, two))
    write("safetensors", "index-in-both", folder(index(names), one, one))
    write("safetensors", "index-empty", folder(index({}), one, two))


safetensors()
