"""Writes checkpoints in TensorFlow's format, slowly and plainly, for :mod:`backend.network.tf_checkpoint` to read.

Written from the formats' descriptions (LevelDB's ``table_format.md``, TensorFlow's ``tensor_bundle.proto``) and
not from the reader. Its own checksum is the polynomial division bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

TYPE_NUMBERS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9}


def write_checkpoint(
    prefix: Path, tensors: Mapping[str, np.ndarray], shards: int = 1, block_bytes: int = 4096, crc=None
) -> None:
    """``prefix.index`` and its shards, tensors dealt out in turn; ``crc`` replaces the slow checksum of the data."""
    checksum = crc or masked_crc
    table = {b"": message((1, shards), (3, message((1, 1))))}  # num_shards, version
    pieces: list[list[bytes]] = [[] for _ in range(shards)]
    sizes = [0] * shards
    for number, name in enumerate(sorted(tensors)):
        data = tensors[name].tobytes()
        shard = number % shards
        shape = b"".join(field(2, message((1, size))) for size in tensors[name].shape)
        entry = message((1, TYPE_NUMBERS[tensors[name].dtype.name])) + field(2, shape)
        entry += message((3, shard), (4, sizes[shard]), (5, len(data)))
        entry += b"\x35" + checksum(data).to_bytes(4, "little")  # field 6, fixed 32 bits
        table[name.encode()] = entry
        pieces[shard].append(data)
        sizes[shard] += len(data)
    for shard, parts in enumerate(pieces):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(b"".join(parts))
    prefix.with_name(prefix.name + ".index").write_bytes(table_file(table, block_bytes))


def table_file(table: Mapping[bytes, bytes], block_bytes: int = 4096) -> bytes:
    """A LevelDB table: data blocks, an empty block of filters, the index of blocks, the footer."""
    content, index, block, last = b"", {}, {}, b""
    for key in sorted(table):
        block[key], last = table[key], key
        if sum(len(k) + len(v) for k, v in block.items()) >= block_bytes:
            content, index[last] = append_block(content, block)
            block = {}
    if block:
        content, index[last] = append_block(content, block)
    content, filters = append_block(content, {})
    content, blocks = append_block(content, index)
    return content + (filters + blocks).ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")


def append_block(content: bytes, entries: Mapping[bytes, bytes], compression: int = 0) -> tuple[bytes, bytes]:
    """The content with the block behind it, and the handle: where it lies."""
    block, restarts, before = b"", [], b""
    for number, (key, value) in enumerate(entries.items()):
        shared = 0
        if number % 16 == 0:
            restarts.append(len(block))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        block += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    restarts = restarts or [0]
    block += b"".join(place.to_bytes(4, "little") for place in [*restarts, len(restarts)])
    handle = varint(len(content)) + varint(len(block))
    block += bytes([compression])
    return content + block + masked_crc(block).to_bytes(4, "little"), handle


def message(*values: tuple[int, int | bytes]) -> bytes:
    return b"".join(field(number, value) for number, value in values)


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def crc32c(data: bytes) -> int:
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
