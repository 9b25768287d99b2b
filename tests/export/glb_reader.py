"""A small glTF reader that shares no code with the writer; only what the tests need."""

from __future__ import annotations

import json
import struct

import numpy as np

COMPONENTS = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


class Glb:
    """The JSON document and the binary chunk of a GLB file."""

    def __init__(self, data: bytes) -> None:
        magic, version, length = struct.unpack_from("<4sII", data, 0)
        assert magic == b"glTF" and version == 2 and length == len(data)
        size, kind = struct.unpack_from("<I4s", data, 12)
        assert kind == b"JSON" and size % 4 == 0
        self.document = json.loads(data[20 : 20 + size])
        start = 20 + size
        size, kind = struct.unpack_from("<I4s", data, start)
        assert kind == b"BIN\0" and size % 4 == 0
        self.binary = data[start + 8 : start + 8 + size]
        assert start + 8 + size == len(data)

    def view(self, index: int) -> bytes:
        view = self.document["bufferViews"][index]
        start = view.get("byteOffset", 0)
        return self.binary[start : start + view["byteLength"]]

    def _array(self, view: int, offset: int, component: int, count: int, width: int) -> np.ndarray:
        values = np.frombuffer(self.view(view), COMPONENTS[component], count * width, offset)
        return values.reshape(count, width)

    def accessor(self, index: int) -> np.ndarray:
        """(count, width), the sparse part laid over the dense one or over zeros."""
        accessor = self.document["accessors"][index]
        count, width, component = accessor["count"], WIDTHS[accessor["type"]], accessor["componentType"]
        if "bufferView" in accessor:
            offset = accessor.get("byteOffset", 0)
            values = self._array(accessor["bufferView"], offset, component, count, width).copy()
        else:
            values = np.zeros((count, width), COMPONENTS[component])
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            where, what = sparse["indices"], sparse["values"]
            rows = self._array(
                where["bufferView"], where.get("byteOffset", 0), where["componentType"], sparse["count"], 1
            )
            changed = self._array(what["bufferView"], what.get("byteOffset", 0), component, sparse["count"], width)
            values[rows[:, 0]] = changed
        if "min" in accessor:
            np.testing.assert_array_equal(np.float32(accessor["min"]), values.min(axis=0))
            np.testing.assert_array_equal(np.float32(accessor["max"]), values.max(axis=0))
        return values
