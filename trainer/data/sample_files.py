"""A triplet as the files of one sample, and back.

==============  ==========================================================================================
``photos.npy``  (N, S, S, 3) uint8, sRGB, as drawn: what is trained from disk is what would have been drawn
``view0.jpg``   in its place, and ``view1.jpg``, ``view2.jpg``: crops of real photos
``skin.png``    (N S, S) grey, the views below each other: how much of a pixel is bare skin
``truth.npy``   (N, T) float32: all that is true of each view, side by side; ``shards.json`` says which is what
``meta.json``   ``flag``, ``moved``, ``one_person``, ``real``: see :class:`trainer.data.synthetic.Triplets`
==============  ==========================================================================================

Symbols: B triplets, N views, P = B N pictures, S side of a crop, T numbers of a truth, L landmarks.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image

from backend.network.outputs import GROUPS, Layout, Predicted
from trainer.data.synthetic import Triplets
from trainer.data.triplets import VIEWS

# The landmarks that training compares with.
STORED_LANDMARKS, LANDMARK_COUNT = "ibug68", 68

Buffer = bytes | memoryview

# What is said of a whole triplet.
ABOUT = ("flag", "moved", "one_person", "real")

Columns = Mapping[str, tuple[int, int]]


def columns_for(layout: Layout) -> dict[str, tuple[int, int]]:
    """Where each part of a truth begins and ends among its T numbers."""
    sizes = {
        "identity": layout.identity,
        "expression": layout.expression,
        "albedo": layout.albedo,
        "light": 27,
        "R": 9,
        "place": 3,
        "log_focal": 1,
        "landmarks": 2 * LANDMARK_COUNT,
        "visible": LANDMARK_COUNT,
        "trust": len(GROUPS),
    }
    columns, end = {}, 0
    for name, size in sizes.items():
        columns[name], end = (end, end + size), end + size
    return columns


def files_of(batch: Triplets) -> list[dict[str, bytes]]:
    """The files of each of B triplets."""
    truth = batch.truth
    parts = [truth.identity, truth.expression, truth.albedo, truth.light, truth.R, truth.place, truth.log_focal]
    parts += [batch.landmarks[STORED_LANDMARKS], batch.visible[STORED_LANDMARKS].float()]
    known = torch.ones(len(truth.R), device=truth.R.device)
    parts += [torch.stack([batch.trust.get(name, known) for name in GROUPS], dim=1)]
    rows = torch.cat([part.flatten(1) for part in parts], dim=1).cpu().numpy().astype("<f4")
    rows = rows.reshape(len(batch.flags), VIEWS, -1)
    photos, skin = batch.photos.cpu().numpy(), (255.0 * batch.skin).round().to(torch.uint8).cpu().numpy()
    about = zip(*(values.tolist() for values in (batch.flags, batch.moved, batch.one_person, batch.real)))
    return [
        {
            "photos.npy": npy(photos[index]),
            "skin.png": png(skin[index].reshape(-1, skin.shape[-1])),
            "truth.npy": npy(rows[index]),
            "meta.json": json.dumps(dict(zip(ABOUT, said))).encode(),
        }
        for index, said in enumerate(about)
    ]


def batch_from(samples: Sequence[Mapping[str, Buffer]], columns: Columns, side: int, device: torch.device) -> Triplets:
    """B triplets from their files.

    Parameters
    ----------
    samples : sequence of mapping of str to bytes
    columns : mapping
        Of :func:`columns_for`, as it was when the files were made.
    side : int
        S that is wanted; crops of another side are averaged to it.
    device : torch.device
    """
    photos = torch.from_numpy(np.stack([pictures(sample) for sample in samples])).to(device)
    skin = torch.from_numpy(np.stack([grey(sample["skin.png"]) for sample in samples])).to(device)
    rows = torch.from_numpy(np.stack([array(sample["truth.npy"]) for sample in samples])).to(device).flatten(0, 1)
    about = [json.loads(bytes(sample["meta.json"])) for sample in samples]
    stored = photos.shape[2]
    skin = skin.unflatten(1, (VIEWS, stored)).float() / 255.0
    if stored != side:
        photos = resized(photos.flatten(0, 1).float(), side).round().to(torch.uint8).unflatten(0, (-1, VIEWS))
        skin = resized(skin.flatten(0, 1)[..., None], side)[..., 0].unflatten(0, (-1, VIEWS))

    def part(name: str, *shape: int) -> torch.Tensor:
        low, high = columns[name]
        return rows[:, low:high].reshape(len(rows), *shape)

    truth = Predicted(
        identity=part("identity", -1),
        expression=part("expression", -1),
        # Models without an albedo have no columns for it.
        albedo=rows[:, slice(*columns["albedo"])],
        light=part("light", 3, 9),
        R=part("R", 3, 3),
        place=part("place", 3),
        log_focal=part("log_focal", 1),
        log_variance={},
    )
    return Triplets(
        photos=photos,
        skin=skin,
        truth=truth,
        landmarks={STORED_LANDMARKS: part("landmarks", LANDMARK_COUNT, 2) * (side / stored)},
        visible={STORED_LANDMARKS: part("visible", LANDMARK_COUNT) > 0.5},
        flags=torch.tensor([entry["flag"] for entry in about], device=device),
        moved=torch.tensor([entry["moved"] for entry in about], device=device),
        one_person=torch.tensor([entry["one_person"] for entry in about], device=device),
        real=torch.tensor([entry["real"] for entry in about], device=device),
        trust=dict(zip(GROUPS, part("trust", -1).unbind(dim=1))),
    )


def pictures(sample: Mapping[str, Buffer]) -> np.ndarray:
    """(N, S, S, 3) uint8 of a sample."""
    if "photos.npy" in sample:
        return array(sample["photos.npy"])
    return np.stack([np.asarray(Image.open(io.BytesIO(sample[f"view{view}.jpg"]))) for view in range(VIEWS)])


def resized(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """(P, S', S', C) float -> (P, S, S, C): means over areas where it gets smaller."""
    pictures = pictures.permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(
        pictures, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    ).permute(0, 2, 3, 1)


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(values), allow_pickle=False)
    return stream.getvalue()


def array(content: Buffer) -> np.ndarray:
    """The array of a .npy file, in place."""
    stream = io.BytesIO(content[:4096])
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("objects are not read")
    return np.frombuffer(content, dtype, offset=stream.tell(), count=int(np.prod(shape))).reshape(shape)


def stacked_grey(parts: Sequence[Buffer]) -> np.ndarray:
    """(N S, S) uint8 of N grey PNGs, below each other."""
    return np.concatenate([grey(part) for part in parts])


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def grey(content: Buffer) -> np.ndarray:
    """(H, W) uint8 of a grey PNG."""
    return np.asarray(Image.open(io.BytesIO(content)))
