"""Arrays become glTF accessors in one binary buffer.

Symbols: V vertices of the model, N corners of a part, T triangles.
"""

from __future__ import annotations

import numpy as np
import pygltflib as gl

# Every chunk starts at a multiple of four bytes, the size of the widest component used here.
ALIGNMENT = 4


class Chunks:
    """Byte strings in a row, each one aligned."""

    def __init__(self) -> None:
        self.length = 0
        self._pieces: list[bytes] = []

    def append(self, data: bytes) -> int:
        """Returns the offset of ``data``."""
        start = self.length
        padding = -len(data) % ALIGNMENT
        self._pieces += [data, bytes(padding)]
        self.length += len(data) + padding
        return start

    def joined(self) -> bytes:
        return b"".join(self._pieces)


PNG_SIGNATURE = b"\x89PNG"


class BufferBuilder:
    """Fills one document's accessors, buffer views and pictures, and packs the file."""

    def __init__(self, document: gl.GLTF2) -> None:
        self.document = document
        self._buffer = Chunks()
        # Sparse targets are many and small: they share two buffer views, which keeps the JSON short.
        self._sparse_indices, self._sparse_values = Chunks(), Chunks()
        self._sparse: list[gl.Sparse] = []

    def vertices(self, values: np.ndarray, bounds: bool = False) -> int:
        """(N, 2) or (N, 3) float32 -> accessor index; ``bounds`` writes min and max, which positions need."""
        values = np.ascontiguousarray(values, np.float32)
        accessor = gl.Accessor(
            bufferView=self._view(values.tobytes(), gl.ARRAY_BUFFER),
            componentType=gl.FLOAT,
            count=len(values),
            type=gl.VEC3 if values.shape[1] == 3 else gl.VEC2,
        )
        if bounds:
            accessor.min, accessor.max = values.min(axis=0).tolist(), values.max(axis=0).tolist()
        return self._accessor(accessor)

    def triangles(self, triangles: np.ndarray) -> int:
        """(T, 3) int -> accessor index, 16 bits wide where that is enough."""
        # The largest value of a type is the restart marker and may not be an index.
        narrow = triangles.max() < np.iinfo(np.uint16).max
        flat = np.ascontiguousarray(triangles, np.uint16 if narrow else np.uint32).ravel()
        view = self._view(flat.tobytes(), gl.ELEMENT_ARRAY_BUFFER)
        kind = gl.UNSIGNED_SHORT if narrow else gl.UNSIGNED_INT
        return self._accessor(gl.Accessor(bufferView=view, componentType=kind, count=len(flat), type=gl.SCALAR))

    def sparse(self, values: np.ndarray, used: np.ndarray, vertex: np.ndarray, bounds: bool = False) -> int:
        """One morph target's offsets at the corners of a part, those that matter only.

        Parameters
        ----------
        values : (V, 3) float32
            Offsets at the model's vertices.
        used : (V,) bool
            Which of them are kept; the others count as zero.
        vertex : (N,) int32
            Model vertex of each corner.
        bounds : bool
            Write min and max, which positions need.
        """
        rows = np.flatnonzero(used[vertex])
        if not len(rows):
            # A sparse accessor may not be empty and readers differ over an accessor without data, so one
            # explicit zero stands for a shape that leaves the part alone.
            rows = np.zeros(1, np.int64)
        kept = np.ascontiguousarray(values[vertex[rows]] * used[vertex[rows], None], np.float32)
        wide = len(vertex) > np.iinfo(np.uint16).max
        indices = rows.astype(np.uint32 if wide else np.uint16)
        sparse = gl.Sparse(
            count=len(rows),
            indices=gl.AccessorSparseIndices(
                byteOffset=self._sparse_indices.append(indices.tobytes()),
                componentType=gl.UNSIGNED_INT if wide else gl.UNSIGNED_SHORT,
            ),
            values=gl.AccessorSparseValues(byteOffset=self._sparse_values.append(kept.tobytes())),
        )
        self._sparse.append(sparse)
        # No buffer view means zeros everywhere else; then the format allows no byte offset either.
        accessor = gl.Accessor(byteOffset=None, componentType=gl.FLOAT, count=len(vertex), type=gl.VEC3, sparse=sparse)
        if bounds:
            low, high = kept.min(axis=0), kept.max(axis=0)
            if len(rows) < len(vertex):  # zero is among the values
                low, high = np.minimum(low, 0), np.maximum(high, 0)
            accessor.min, accessor.max = low.tolist(), high.tolist()
        return self._accessor(accessor)

    def picture(self, packed: bytes, name: str) -> int:
        """The bytes of a JPEG or PNG file -> texture index."""
        kind = "image/png" if packed.startswith(PNG_SIGNATURE) else "image/jpeg"
        document = self.document
        if not document.samplers:
            # REPEAT lets models with several texture tiles (UDIM) use the whole part of their coordinates.
            sampler = gl.Sampler(
                magFilter=gl.LINEAR, minFilter=gl.LINEAR_MIPMAP_LINEAR, wrapS=gl.REPEAT, wrapT=gl.REPEAT
            )
            document.samplers.append(sampler)
        document.images.append(gl.Image(name=name, bufferView=self._view(packed), mimeType=kind))
        document.textures.append(gl.Texture(name=name, sampler=0, source=len(document.images) - 1))
        return len(document.textures) - 1

    def glb(self) -> bytes:
        """Header, JSON chunk and binary chunk (glTF 2.0 specification, section 4.4)."""
        if self._sparse:
            indices, values = self._view(self._sparse_indices.joined()), self._view(self._sparse_values.joined())
            for sparse in self._sparse:
                sparse.indices.bufferView, sparse.values.bufferView = indices, values
        self.document.buffers = [gl.Buffer(byteLength=self._buffer.length)]
        self.document.set_binary_blob(self._buffer.joined())
        return b"".join(self.document.save_to_bytes())

    def _accessor(self, accessor: gl.Accessor) -> int:
        self.document.accessors.append(accessor)
        return len(self.document.accessors) - 1

    def _view(self, data: bytes, target: int | None = None) -> int:
        start = self._buffer.append(data)
        view = gl.BufferView(buffer=0, byteOffset=start, byteLength=len(data), target=target)
        self.document.bufferViews.append(view)
        return len(self.document.bufferViews) - 1
