"""Reads TensorFlow's checkpoints (format V2, what its ``Saver`` has written since 2016) without TensorFlow.

A checkpoint is ``NAME.index`` and ``NAME.data-00000-of-00001`` (or more shards). The index is a table of
LevelDB's format (``table_format.md`` there): sorted keys in blocks, with prefixes shared; here the keys are
tensor names and the values are ``BundleEntryProto`` messages (``tensor_bundle.proto`` of TensorFlow) that say
type, shape, shard, offset, size and checksum. The shards hold the numbers one after the other, little-endian.
All of it carries CRC-32C checksums, and all of them are checked.

Nothing in such a file is run, unlike in a pickle, and nothing is believed before it was measured against the
length of the file that it points into.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.errors import WeightsError
from backend.geometry.kernel_cache import njit

# LevelDB, table_format.md: the last 8 bytes of a table, its footer, and what follows every block.
TABLE_MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
BLOCK_TRAILER_BYTES = 5
NO_COMPRESSION = 0

# CRC-32C (Castagnoli), polynomial reflected; LevelDB, crc32c.h: checksums are stored turned and shifted by this.
CRC_POLYNOMIAL = 0x82F63B78
CRC_MASK_DELTA = 0xA282EAD8

# TensorFlow, types.proto: the types that a network's weights and counters have.
DTYPES = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 3: np.dtype("<i4"), 9: np.dtype("<i8")}

# How the keys of the slices begin that a sliced tensor is stored in, beside the entry under its name.
SLICE_KEY = b"\0"

# Protocol Buffers' wire types.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# An index of a network of a thousand layers is below 1 MB; whatever is larger is something else.
LARGEST_INDEX = 256 * 2**20

# The file in which TensorFlow notes the latest checkpoint of a folder.
LATEST = "checkpoint"


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: ``dtype`` as TensorFlow numbers it, ``crc`` masked as stored."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    sliced: bool


class DamagedError(Exception):
    """The bytes do not hold together; :class:`Checkpoint` turns it into a sentence."""


class Checkpoint:
    """An open checkpoint.

    Parameters
    ----------
    path : path
        The folder, the prefix (``model/model-400000``), or any one of its files.

    Attributes
    ----------
    entries : dict of str to Entry
        By tensor name, sorted.
    """

    def __init__(self, path: str | Path) -> None:
        self.prefix = find_prefix(Path(path))
        index = with_suffix(self.prefix, ".index")
        try:
            if index.stat().st_size > LARGEST_INDEX:
                raise WeightsError(f"{index} is too large for the index of a checkpoint; name another file.")
            content = index.read_bytes()
        except OSError as error:
            raise WeightsError(f"{index} cannot be read ({error.strerror}); check the path and permissions.") from error
        try:
            self.shards, self.entries = parse_index(content)
        except (DamagedError, IndexError, UnicodeDecodeError) as error:
            raise WeightsError(
                f"{index} is not the index of a TensorFlow checkpoint or is damaged ({error}); copy it again."
            ) from error

    def read(self, name: str) -> np.ndarray:
        """One tensor; ``KeyError`` when there is none of that name."""
        entry = self.entries[name]
        if entry.sliced:
            raise WeightsError(f'The tensor "{name}" of {self.prefix} is stored in slices; save it in one piece.')
        dtype = DTYPES.get(entry.dtype)
        if dtype is None:
            raise WeightsError(
                f'The tensor "{name}" of {self.prefix} has TensorFlow\'s type {entry.dtype}, which no network here '
                "uses; name another checkpoint."
            )
        shard = with_suffix(self.prefix, f".data-{entry.shard:05d}-of-{self.shards:05d}")
        try:
            if shard.stat().st_size < entry.offset + entry.size:
                raise WeightsError(f"{shard} is cut off; copy it again.")
            with open(shard, "rb") as file:
                file.seek(entry.offset)
                content = file.read(entry.size)
        except OSError as error:
            raise WeightsError(f"{shard} cannot be read ({error.strerror}); copy it beside the index.") from error
        # Python's integers: a damaged shape must not wrap round.
        count = 1
        for size in entry.shape:
            count *= size
        damaged = WeightsError(f'The tensor "{name}" in {shard} is damaged; copy the file again.')
        if len(content) != entry.size or entry.size != count * dtype.itemsize or masked_crc32c(content) != entry.crc:
            raise damaged
        try:
            return np.frombuffer(content, dtype).reshape(entry.shape)
        except (ValueError, OverflowError) as error:  # more sides, or longer ones, than NumPy counts
            raise damaged from error


def find_prefix(path: Path) -> Path:
    """The common part of a checkpoint's file names, from a folder, that part, or one of its files."""
    if path.is_dir():
        return _prefix_in_folder(path)
    for pattern in (r"\.index$", r"\.meta$", r"\.data-\d{5}-of-\d{5}$"):
        if re.search(pattern, path.name):
            path = path.with_name(re.sub(pattern, "", path.name))
    if with_suffix(path, ".index").is_file():
        return path
    if path.is_file():
        raise WeightsError(
            f"{path} has no {path.name}.index beside it, so it is no checkpoint of the form that TensorFlow has "
            "written since 2016; name the folder with the .index and .data files."
        )
    raise WeightsError(f"There is no checkpoint {path}; name the folder that holds its .index and .data files.")


def _prefix_in_folder(folder: Path) -> Path:
    found = sorted(index.with_name(index.name.removesuffix(".index")) for index in folder.glob("*.index"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise WeightsError(f"{folder} holds no checkpoint; name the folder with the .index and .data files.")
    latest = folder / LATEST
    noted = latest.read_text("utf-8", errors="replace") if latest.is_file() else ""
    name = re.search(r'^model_checkpoint_path: "(?:.*[/\\])?([^"/\\]+)"', noted, re.MULTILINE)
    for prefix in found:
        if name and prefix.name == name[1]:
            return prefix
    names = ", ".join(prefix.name for prefix in found)
    raise WeightsError(f"{folder} holds several checkpoints ({names}); name one of them.")


def with_suffix(prefix: Path, suffix: str) -> Path:
    """``Path.with_suffix`` would take ``model-1.5`` for a name with a suffix."""
    return prefix.with_name(prefix.name + suffix)


# --- the table --------------------------------------------------------------------------------------------


def parse_index(content: bytes) -> tuple[int, dict[str, Entry]]:
    """The number of shards and all entries of an index file."""
    if len(content) < FOOTER_BYTES or int.from_bytes(content[-8:], "little") != TABLE_MAGIC:
        raise DamagedError("it does not end like one")
    footer = content[-FOOTER_BYTES:]
    _, position = read_handle(footer, 0)  # the index of filters, which these tables do not have
    handle, _ = read_handle(footer, position)
    table: dict[bytes, bytes] = {}
    for _, value in read_block(content, *handle):
        block, _ = read_handle(value, 0)
        table.update(read_block(content, *block))
    header = dict(fields(table.pop(b"", b"")))
    shards, endianness = header.get(1, 0), header.get(2, 0)
    if not isinstance(shards, int) or shards < 1:
        raise DamagedError("it names no data files")
    if endianness != 0:
        raise DamagedError("its numbers are big-endian")
    named = {key: value for key, value in sorted(table.items()) if not key.startswith(SLICE_KEY)}
    return shards, {key.decode("utf-8"): parse_entry(value) for key, value in named.items()}


def read_handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and where reading goes on."""
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return (offset, size), position


def read_block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block, which is checked first."""
    end = offset + size
    if end + BLOCK_TRAILER_BYTES > len(content) or size < 4:
        raise DamagedError("a block lies outside of it")
    if masked_crc32c(content[offset : end + 1]) != int.from_bytes(content[end + 1 : end + 5], "little"):
        raise DamagedError("a checksum is wrong")
    if content[end] != NO_COMPRESSION:
        raise DamagedError("it is compressed, which TensorFlow itself never does")
    block = content[offset:end]
    restarts = int.from_bytes(block[-4:], "little")
    stop = len(block) - 4 - 4 * restarts
    if stop < 0:
        raise DamagedError("a block has no room for its restarts")
    key, position = b"", 0
    while position < stop:
        shared, position = read_varint(block, position)
        unshared, position = read_varint(block, position)
        length, position = read_varint(block, position)
        if shared > len(key) or position + unshared + length > stop:
            raise DamagedError("a key or value reaches beyond its block")
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + length]
        position += length


# --- the messages -----------------------------------------------------------------------------------------


def parse_entry(data: bytes) -> Entry:
    """``BundleEntryProto``."""
    values = dict(fields(data))
    numbers = []
    for number in (1, 3, 4, 5, 6):  # dtype, shard_id, offset, size, crc32c; what is 0 is left out
        value = values.get(number, 0)
        if not isinstance(value, int):
            raise DamagedError("an entry is not what it should be")
        numbers.append(value)
    dtype, shard, offset, size, crc = numbers
    shape = []
    for number, dim in fields(as_bytes(values.get(2, b""))):  # TensorShapeProto
        if number == 2:
            length = dict(fields(as_bytes(dim))).get(1, 0)
            if not isinstance(length, int):
                raise DamagedError("a shape is not what it should be")
            shape.append(length)
    return Entry(dtype, tuple(shape), shard, offset, size, crc, sliced=7 in values)


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protocol-buffer message, numbers without sign, in the order stored."""
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        wire = tag & 7
        if wire == VARINT:
            value, position = read_varint(data, position)
            yield tag >> 3, value
            continue
        if wire == BYTES:
            length, position = read_varint(data, position)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise DamagedError(f"a field has the wire type {wire}")
        if position + length > len(data):
            raise DamagedError("a field reaches beyond its message")
        part = data[position : position + length]
        yield tag >> 3, part if wire == BYTES else int.from_bytes(part, "little")
        position += length


def as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise DamagedError("a number stands where a message should")
    return value


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """An unsigned integer in groups of seven bits, the lowest first; and where reading goes on."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise DamagedError("a number does not end")


# --- checksums --------------------------------------------------------------------------------------------


def masked_crc32c(content: bytes) -> int:
    """The checksum as LevelDB and TensorFlow store it."""
    crc = int(_crc32c(np.frombuffer(content, np.uint8), CRC_TABLE))
    return (((crc >> 15) | (crc << 17)) + CRC_MASK_DELTA) & 0xFFFFFFFF


def _crc_table() -> np.ndarray:
    """(256,) uint32: what one byte does to the remainder."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(CRC_POLYNOMIAL), table >> 1).astype(np.uint32)
    return table


CRC_TABLE = _crc_table()


@njit(cache=True, nogil=True)
def _crc32c(content: np.ndarray, table: np.ndarray) -> np.uint32:
    """CRC-32C of (N,) uint8, a byte at a time."""
    crc = np.uint32(0xFFFFFFFF)
    for byte in content:
        crc = np.uint32(crc >> np.uint32(8)) ^ table[(crc ^ byte) & np.uint32(0xFF)]
    return crc ^ np.uint32(0xFFFFFFFF)
