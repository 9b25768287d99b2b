"""Faces as a detector sees them, and where their landmarks are: invented people that are turned far, or covered.

Blocks of pictures are drawn in four ways: by the painter, turned by 25 to 88 degrees; by the generator of the
network's training with its backgrounds, shadows, hands and locks; by the painter, turned to any side, behind masks,
hats, hair, hands and the like (``data/before_faces.py``); by the painter, some as the first, some as the third, with
heads that the model cannot make (``data/bent_heads.py``). What was seen of a block is kept in a file, so that work
that stopped goes on. Symbols as in ``backend/network/turned_heads.py``; N faces, I identity modes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from backend.errors import MgcFaceError
from backend.face_model.model import FaceModel
from backend.face_model.registry import get_model
from backend.geometry.camera import Camera
from backend.geometry.rotation import head_euler_degrees, rotation_from_head_euler
from backend.network.turned_heads import FACE_LANDMARKS, LANDMARK_SET, align
from backend.reconstruction.contour import outward_normals, slide
from backend.reconstruction.landmark_model import LandmarkModel
from backend.reconstruction.skin_statistics import albedo_of
from backend.vision.crop import Reduced
from backend.vision.mediapipe_detector import MediaPipeDetector
from backend.vision.photo import Photo
from trainer.data.before_faces import cover
from trainer.data.bent_heads import bent
from trainer.data.painter import Painter
from trainer.data.people import Person, draw_person, turned
from trainer.data.skins import unwrap_skins
from trainer.data.synthetic import Head, SyntheticFaces
from trainer.learn_correction import LARGEST_YAW
from trainer.measure_detector import mean_shape

# After the people of the correction; evaluations use others. The generator has a seed of its own.
FIRST_SEED, FIRST_COVERED_SEED, FIRST_BENT_SEED, GENERATOR_SEED = 1_060_000, 1_300_000, 1_600_000, 71_000_000
# Pictures of a block, its side when the generator draws it, triplets of it, and looks drawn ahead.
BLOCK, PICTURE, TRIPLETS, LOOKS = 24, 256, 8, 192
# The painter's people are turned by this and more, degrees. Of the generator's that are turned by less than the second
# only some are looked at: they teach where to leave landmarks alone.
LEAST_YAW, HARDLY_TURNED, LOOKED_AT_PART = 25.0, 22.0, 0.15
# Covered people are turned by up to so many degrees; this part of them has nothing before the face.
COVERED_YAW, BARE = 65.0, 0.2
# Of people with bent heads, the part that is turned as the first are; the others are covered.
BENT_TURNED = 0.5
# Crops are kept larger than the network sees them, as large as one whose landmarks are not yet right may need.
STORED_SIDE, STORED_REACH = 128, 2.0
# One in so many faces is not learned from.
HELD_OUT = 20
# Rounds in which outlines slide and their normals follow.
SLIDES = 4
TURNED, COVERED, BENT = "turned", "covered", "bent"

Pictures = Iterator[tuple[np.ndarray, Person]]


@dataclass
class Seen:
    """N faces.

    Attributes
    ----------
    aligned, wanted : (N, L, 2) float32
        Landmarks as detected and where they are, radii, in the frame of the detected ones.
    R : (N, 3, 3) float32
        Into a camera rolled like the face.
    crop : (N, STORED_SIDE, STORED_SIDE, 3) uint8
        In the same frame, ``STORED_REACH`` radii to each side.
    identity : (N, I) float32
        Coefficients of the person.
    """

    aligned: np.ndarray
    wanted: np.ndarray
    R: np.ndarray
    crop: np.ndarray
    identity: np.ndarray


# --- people, drawn and detected -----------------------------------------------------------------------------


class Drawer:
    """What a worker keeps warm."""

    def __init__(self, skins: Path | None) -> None:
        self.model = get_model("open-head")
        self.landmarks = LandmarkModel(self.model, LANDMARK_SET, regress=False)
        loaded = None if skins is None else np.load(skins, allow_pickle=False)
        self.painter = Painter(self.model, loaded)
        head = Head(self.model, torch.device("cpu"), albedo_of(self.model))
        self.generator = SyntheticFaces(head, PICTURE, GENERATOR_SEED, LOOKS, supersampling=1)
        self.detector = MediaPipeDetector(passes=2, threads=1)
        self.shape = mean_landmarks(self.model)

    def block(self, kind: str, number: int) -> Seen:
        """The faces found in one block of pictures; turned ones are the painter's if the number is even."""
        turned_ones = self.painted if number % 2 == 0 else self.generated
        pictures = {TURNED: turned_ones, COVERED: self.covered, BENT: self.bent}[kind](number)
        rows = [row for picture, person in pictures if (row := self.seen(picture, person)) is not None]
        if not rows:
            points, crop = np.zeros((0, len(self.shape), 2), np.float32), (0, STORED_SIDE, STORED_SIDE, 3)
            identity = np.zeros((0, len(self.model.identity)), np.float32)
            return Seen(points, points, np.zeros((0, 3, 3), np.float32), np.zeros(crop, np.uint8), identity)
        return Seen(*(np.stack(column) for column in zip(*rows)))

    def painted(self, number: int) -> Pictures:
        for seed in range(FIRST_SEED + number * BLOCK, FIRST_SEED + (number + 1) * BLOCK):
            person = turned_person(self.model, seed)
            yield self.painter.paint(person, seed), person

    def covered(self, number: int) -> Pictures:
        for seed in range(FIRST_COVERED_SEED + number * BLOCK, FIRST_COVERED_SEED + (number + 1) * BLOCK):
            rng = np.random.default_rng([seed, 78])
            person = turned_by(self.model, seed, rng.uniform(-COVERED_YAW, COVERED_YAW), rng)
            yield self.paint_covered(person, seed, rng), person

    def bent(self, number: int) -> Pictures:
        for seed in range(FIRST_BENT_SEED + number * BLOCK, FIRST_BENT_SEED + (number + 1) * BLOCK):
            rng = np.random.default_rng([seed, 79])
            if rng.random() < BENT_TURNED:
                person = bent(self.model, turned_person(self.model, seed), rng)
                yield self.painter.paint(person, seed), person
            else:
                person = turned_by(self.model, seed, rng.uniform(-COVERED_YAW, COVERED_YAW), rng)
                person = bent(self.model, person, rng)
                yield self.paint_covered(person, seed, rng), person

    def paint_covered(self, person: Person, seed: int, rng: np.random.Generator) -> np.ndarray:
        picture = self.painter.paint(person, seed)
        bare = rng.random() < BARE
        return picture if bare else cover(picture, true_landmarks(self.landmarks, person), rng)

    def generated(self, number: int) -> Pictures:
        drawn = self.generator.batch(number, TRIPLETS)
        K, t = drawn.truth.K(PICTURE), drawn.truth.t(self.generator.head.layout)
        rng = np.random.default_rng([GENERATOR_SEED, number])
        for index, picture in enumerate(drawn.photos.flatten(0, 1).numpy()):
            R = drawn.truth.R[index].double().numpy()
            if abs(head_euler_degrees(R)["yaw"]) < HARDLY_TURNED and rng.random() > LOOKED_AT_PART:
                continue
            camera = Camera(K[index].double().numpy(), R, t[index].double().numpy(), PICTURE, PICTURE)
            identity, expression = (getattr(drawn.truth, name)[index].numpy() for name in ("identity", "expression"))
            yield picture, Person(identity, expression, self.model.vertices(identity, expression), camera)

    def seen(self, picture: np.ndarray, person: Person) -> tuple[np.ndarray, ...] | None:
        photo = Photo(np.ascontiguousarray(picture))
        try:
            faces = self.detector.detect(photo)
        except MgcFaceError:
            return None
        if not faces:
            return None
        detected = faces[0].landmarks[LANDMARK_SET].astype(np.float64)[None]
        lies = align(detected, self.shape)
        window = lies.window(0, STORED_REACH)
        crop = Reduced(photo.pixels, window, STORED_SIDE).crop(window)
        wanted = lies.to_radii(true_landmarks(self.landmarks, person)[None])[0]
        row = (lies.to_radii(detected)[0], wanted, lies.upright(person.camera.R[None])[0])
        return (*(part.astype(np.float32) for part in row), crop, person.identity.astype(np.float32))


def turned_person(model: FaceModel, seed: int) -> Person:
    """The person of a seed, turned to either side."""
    rng = np.random.default_rng([seed, 78])
    return turned_by(model, seed, rng.uniform(LEAST_YAW, LARGEST_YAW) * rng.choice([-1.0, 1.0]), rng)


def turned_by(model: FaceModel, seed: int, yaw: float, rng: np.random.Generator) -> Person:
    """The person of a seed, turned by a yaw and nodding a little, degrees."""
    return turned(draw_person(model, seed), rotation_from_head_euler(yaw, rng.normal(0.0, 10.0), rng.normal(0.0, 8.0)))


def true_landmarks(lm: LandmarkModel, person: Person) -> np.ndarray:
    """(L, 2) pixels: where the fit has the landmarks of a person, its outline slid to where it reaches farthest."""
    vertices = person.vertices.astype(np.float64)
    project = lambda embedding: torch.as_tensor(person.camera.project(embedding.points(vertices)))  # noqa: E731
    image, outlines = project(lm.embedding), project(lm.strips.embedding).reshape(1, *lm.strip_mean.shape[:2], 2)
    outline = image[None, lm.contour]
    for _ in range(SLIDES):
        chosen = slide(outlines, outward_normals(outline, lm.contour_closed))
        outline = torch.gather(outlines, 2, chosen[:, :, None, None].expand(-1, -1, 1, 2))[:, :, 0]
    image[lm.contour] = outline[0]
    return image.numpy()


def mean_landmarks(model: FaceModel) -> np.ndarray:
    """(L, 2) of the mean head from the front, unit radius, y down."""
    points = model.landmark_points(model.mean.astype(np.float64), LANDMARK_SET)[:, :2] * [1.0, -1.0]
    weight = torch.zeros(len(points), dtype=torch.float64)
    weight[:FACE_LANDMARKS] = 1.0
    return mean_shape(torch.as_tensor(points)[None], weight).numpy()


_WARM: dict[Path | None, Drawer] = {}


def work(job: tuple[str, int, Path | None, Path]) -> Path:
    """One worker's share: a block, kept in a file."""
    kind, number, skins, folder = job
    path = folder / f"{kind}-{number:05d}.npz"
    if not path.exists():
        torch.set_num_threads(1)
        if skins not in _WARM:
            _WARM[skins] = Drawer(skins)
        unfinished = path.with_suffix(".part.npz")
        block = _WARM[skins].block(kind, number)
        np.savez(unfinished, **{f.name: getattr(block, f.name) for f in fields(block)})
        unfinished.replace(path)
    return path


def see(kind: str, blocks: int, workers: int, skins: Path | None, folder: Path) -> Seen:
    """So many blocks of a kind, those of the folder and the missing ones, with a line that says how far it is."""
    jobs = [(kind, number, skins, folder) for number in range(blocks)]
    parts, found, began = [], 0, time.monotonic()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done, path in enumerate(pool.map(work, jobs)):
            with np.load(path, allow_pickle=False) as arrays:
                parts.append(Seen(**{f.name: arrays[f.name] for f in fields(Seen)}))
            found += len(parts[-1].R)
            sys.stdout.write(
                f"\r{kind}: {done + 1} of {blocks} blocks, {found} faces, {time.monotonic() - began:.0f} s"
            )
            sys.stdout.flush()
    sys.stdout.write("\n")
    return Seen(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Seen)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which faces to see."""
    parser.add_argument("--turned", type=int, default=800, help=f"blocks of {BLOCK} people that are turned")
    parser.add_argument("--covered", type=int, default=600, help="blocks of people with something before their faces")
    parser.add_argument("--bent", type=int, default=420, help="blocks of people with heads that the model cannot make")
    parser.add_argument("--skins", type=Path, action="append", default=[], help="folder of photos that lend skins")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--store", type=Path, required=True, help="folder that keeps what was seen")


def see_all(options: argparse.Namespace) -> dict[str, Seen]:
    """The faces of each kind that :func:`add_arguments` asks for."""
    photos = [path for folder in options.skins for path in sorted(folder.glob("*.jpg"))]
    options.store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        skins = Path(folder) / "skins.npy" if photos else None
        if skins is not None:
            np.save(skins, unwrap_skins(get_model("open-head"), photos), allow_pickle=False)
        counts = {TURNED: options.turned, COVERED: options.covered, BENT: options.bent}
        return {
            kind: see(kind, count, options.workers, skins, options.store) for kind, count in counts.items() if count
        }


def not_learned_from(count: int) -> torch.Tensor:
    """(N,) bool: one in so many."""
    return torch.arange(count) % HELD_OUT == HELD_OUT - 1
