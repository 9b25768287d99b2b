"""Learn where the landmarks of turned heads are, when a detector guesses them.

Invented people turned to up to 88 degrees are drawn, half by the painter in skins of photographed ones, half by the
generator of the network's training with its backgrounds, shadows, hands and locks. They are detected; a small network
sees the detector's crop and landmarks and learns what moves them to where the fit would have them, and the rotation.

    python -m trainer.learn_turned_heads --blocks 800 --skins FOLDER --workers 2 --store FOLDER --out FILE

What was seen is kept in ``--store``, so that work that stopped goes on. Symbols as in
``backend/network/turned_heads.py``; N faces.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import nn

from backend.errors import MgcFaceError
from backend.face_model.model import FaceModel, ModelInfo
from backend.face_model.registry import get_model
from backend.geometry.camera import Camera
from backend.geometry.rotation import head_euler_degrees, rotation_from_head_euler
from backend.network.turned_heads import (
    ARCHITECTURE,
    FACE_LANDMARKS,
    LANDMARK_SET,
    MOVES,
    SHAPE_NUMBERS,
    SIDE,
    TurnedHeadsNetwork,
    align,
    stored,
)
from backend.network.weights_file import WeightsInfo, save_weights
from backend.reconstruction.contour import outward_normals, slide
from backend.reconstruction.landmark_model import LandmarkModel
from backend.reconstruction.skin_statistics import albedo_of
from backend.vision.crop import Reduced
from backend.vision.landmark_sets import MIRROR
from backend.vision.mediapipe_detector import MediaPipeDetector
from backend.vision.photo import Photo
from trainer.data.painter import Painter
from trainer.data.people import Person, draw_person, turned
from trainer.data.skins import unwrap_skins
from trainer.data.synthetic import Head, SyntheticFaces
from trainer.learn_correction import LARGEST_YAW
from trainer.measure_detector import mean_shape
from trainer.train.loop import joined

# After the people of the correction; evaluations use others. The generator has a seed of its own.
FIRST_SEED, GENERATOR_SEED = 1_060_000, 71_000_000
# Pictures of a block, its side when the generator draws it, triplets of it, and looks drawn ahead.
BLOCK, PICTURE, TRIPLETS, LOOKS = 24, 256, 8, 192
# The painter's people are turned by this and more, degrees. Of the generator's that are turned by less than the second
# only some are looked at: they teach where to leave landmarks alone.
LEAST_YAW, HARDLY_TURNED, LOOKED_AT_PART = 25.0, 22.0, 0.15
# Rounds in which outlines slide and their normals follow.
SLIDES = 4
# A face whose landmarks are off by more, millimetres (median), is something else that the detector took for one.
NOT_A_FACE_MM = 25.0
# Radius of a face, millimetres: what unit landmarks are worth in the loss and the report.
RADIUS_MM = 60.0
# Numbers of the shape that vary by less, radii, are not made to vary by one.
LEAST_SPREAD = 1e-3
# One in so many faces is not learned from.
HELD_OUT = 20
EPOCHS, BATCH, RATE, DECAY, SHAKE = 14, 64, 2e-3, 0.05, 0.05
# How much a degree of the rotation counts beside a millimetre of the landmarks.
DEGREE = 0.4


@dataclass
class Seen:
    """N faces.

    Attributes
    ----------
    aligned, wanted : (N, L, 2) float32
        Landmarks as detected and where they are, radii, in the frame of the detected ones.
    R : (N, 3, 3) float32
        Into a camera rolled like the face.
    crop : (N, S, S, 3) uint8
    """

    aligned: np.ndarray
    wanted: np.ndarray
    R: np.ndarray
    crop: np.ndarray


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

    def block(self, number: int) -> Seen:
        """The faces found in one block of pictures: the painter's if the number is even."""
        pictures = self.painted(number) if number % 2 == 0 else self.generated(number)
        rows = [row for picture, person in pictures if (row := self.seen(picture, person)) is not None]
        if not rows:
            empty = np.zeros((0, len(self.shape), 2), np.float32)
            return Seen(empty, empty, np.zeros((0, 3, 3), np.float32), np.zeros((0, SIDE, SIDE, 3), np.uint8))
        return Seen(*(np.stack(column) for column in zip(*rows)))

    def painted(self, number: int):
        for seed in range(FIRST_SEED + number * BLOCK, FIRST_SEED + (number + 1) * BLOCK):
            person = turned_person(self.model, seed)
            yield self.painter.paint(person, seed), person

    def generated(self, number: int):
        drawn = self.generator.batch(number, TRIPLETS)
        K, t = drawn.truth.K(PICTURE), drawn.truth.t(self.generator.head.layout)
        rng = np.random.default_rng([GENERATOR_SEED, number])
        for index, picture in enumerate(drawn.photos.flatten(0, 1).numpy()):
            R = drawn.truth.R[index].double().numpy()
            if abs(head_euler_degrees(R)["yaw"]) < HARDLY_TURNED and rng.random() > LOOKED_AT_PART:
                continue
            camera = Camera(K[index].double().numpy(), R, t[index].double().numpy(), PICTURE, PICTURE)
            identity, expression = (getattr(drawn.truth, name)[index].numpy() for name in ("identity", "expression"))
            yield picture, Person(identity, expression, np.zeros((0, 3)), camera)

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
        window = lies.window(0)
        crop = Reduced(photo.pixels, window, SIDE).crop(window)
        wanted = lies.to_radii(true_landmarks(self.landmarks, person)[None])[0]
        row = (lies.to_radii(detected)[0], wanted, lies.upright(person.camera.R[None])[0])
        return (*(part.astype(np.float32) for part in row), crop)


def turned_person(model: FaceModel, seed: int) -> Person:
    """The person of a seed, turned to either side."""
    rng = np.random.default_rng([seed, 78])
    yaw = rng.uniform(LEAST_YAW, LARGEST_YAW) * rng.choice([-1.0, 1.0])
    R = rotation_from_head_euler(yaw, rng.normal(0.0, 10.0), rng.normal(0.0, 8.0))
    return turned(draw_person(model, seed), R)


def true_landmarks(lm: LandmarkModel, person: Person) -> np.ndarray:
    """(L, 2) pixels: where the fit has the landmarks of a person, its outline slid to where it reaches farthest."""
    coefficients = torch.as_tensor(np.concatenate([person.identity, person.expression]), dtype=lm.dtype)
    points = lm.mean + torch.einsum("klq,q->lk", lm.basis, coefficients)
    strips = lm.strip_mean + torch.einsum("kcsq,q->csk", lm.strip_basis, coefficients)
    project = lambda part: torch.as_tensor(person.camera.project(part.reshape(-1, 3).numpy()))  # noqa: E731
    image, outlines = project(points), project(strips).reshape(1, *strips.shape[:2], 2)
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


def work(job: tuple[int, Path | None, Path]) -> Path:
    """One worker's share: a block, kept in a file."""
    number, skins, folder = job
    path = folder / f"{number:05d}.npz"
    if not path.exists():
        torch.set_num_threads(1)
        if skins not in _WARM:
            _WARM[skins] = Drawer(skins)
        unfinished = path.with_suffix(".part.npz")
        block = _WARM[skins].block(number)
        np.savez(unfinished, **{f.name: getattr(block, f.name) for f in fields(block)})
        unfinished.replace(path)
    return path


def see(blocks: int, workers: int, skins: Path | None, folder: Path) -> Seen:
    """All blocks, those of the folder and the missing ones, with a line that says how far it is."""
    parts, found, began = [], 0, time.monotonic()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done, path in enumerate(pool.map(work, [(number, skins, folder) for number in range(blocks)])):
            with np.load(path, allow_pickle=False) as arrays:
                parts.append(Seen(**{f.name: arrays[f.name] for f in fields(Seen)}))
            found += len(parts[-1].R)
            sys.stdout.write(f"\r{done + 1} of {blocks} blocks, {found} faces, {time.monotonic() - began:.0f} s")
            sys.stdout.flush()
    return Seen(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Seen)))


# --- learning -------------------------------------------------------------------------------------------------


@dataclass
class Lesson:
    """Tensors of N faces, as in :class:`Seen`; ``moves`` (N, L, 2) is what is wanted less what is detected, radii."""

    crop: torch.Tensor
    aligned: torch.Tensor
    moves: torch.Tensor
    R: torch.Tensor

    def of(self, chosen: torch.Tensor) -> Lesson:
        return Lesson(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def mirrored(self) -> Lesson:
        """As seen in a mirror."""
        across = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
        flip = lambda points: points[:, MIRROR] * torch.tensor([-1.0, 1.0])  # noqa: E731
        return Lesson(self.crop.flip(2), flip(self.aligned), flip(self.moves), across @ self.R @ across)

    def with_mirrored(self) -> Lesson:
        other = self.mirrored()
        return Lesson(*(torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    def yaw(self) -> np.ndarray:
        """(N,) degrees."""
        return np.array([head_euler_degrees(R)["yaw"] for R in self.R.double().numpy()])


def lesson(seen: Seen) -> Lesson:
    """Of those that are faces."""
    moves = torch.from_numpy(seen.wanted - seen.aligned)
    faces = moves[:, :FACE_LANDMARKS].norm(dim=2).median(dim=1).values < NOT_A_FACE_MM / RADIUS_MM
    whole = Lesson(torch.from_numpy(seen.crop), torch.from_numpy(seen.aligned), moves, torch.from_numpy(seen.R))
    return whole.of(faces)


def prepared(learned: Lesson, shape: np.ndarray) -> TurnedHeadsNetwork:
    """An untrained network whose buffers are those of the people to learn from."""
    network = TurnedHeadsNetwork(len(shape))
    network.shape.copy_(torch.from_numpy(shape))
    apart = (learned.aligned - network.shape).flatten(1)
    rows = directions(apart, SHAPE_NUMBERS)
    network.shape_rows.copy_(rows / (apart @ rows.mT).std(dim=0).clamp_min(LEAST_SPREAD)[:, None])
    flat = learned.moves.flatten(1)
    network.mean_move.copy_(flat.mean(dim=0))
    axes = directions(flat - network.mean_move, MOVES)
    # Of the size of the largest, so that the network answers with numbers about one.
    network.moves.copy_(axes * ((flat - network.mean_move) @ axes[0]).std())
    return network


def directions(points: torch.Tensor, count: int) -> torch.Tensor:
    """(N, K) -> (count, K) orthonormal, in which they vary most."""
    _, vectors = torch.linalg.eigh((points.mT @ points).double())
    return vectors[:, -count:].mT.flip(0).to(points.dtype)


def shaken(crops: torch.Tensor) -> torch.Tensor:
    """(B, S, S, 3) uint8 -> float, in other light, other white balance, some without colour."""
    count = len(crops)
    values = (crops.float() / 255.0) ** torch.exp(0.3 * torch.randn(count, 1, 1, 1))
    values = values * (1.0 + 0.15 * torch.randn(count, 1, 1, 3))
    grey = torch.rand(count, 1, 1, 1) < 0.25
    return torch.where(grey, values.mean(dim=3, keepdim=True).expand_as(values), values)


def loss(network: TurnedHeadsNetwork, crops: torch.Tensor, numbers: torch.Tensor, wanted: Lesson) -> torch.Tensor:
    """Millimetres of the landmarks and degrees of the rotation, root mean square over a face: robust against some."""
    along, R = network(crops, numbers)
    off = RADIUS_MM * (network.moved(along) - wanted.moves)
    millimetres = (off.square().sum(dim=2).mean(dim=1) + 1.0).sqrt()
    # The squared Frobenius norm of a small turn is twice its square.
    degrees = ((R - wanted.R).square().sum(dim=(1, 2)) * (0.5 * np.degrees(1.0) ** 2) + 4.0).sqrt()
    return (millimetres + DEGREE * degrees).mean()


def train(network: TurnedHeadsNetwork, learned: Lesson) -> None:
    """AdamW at one cycle of rates, with a line for each pass."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    numbers = network.numbers(learned.aligned)
    steps = max(EPOCHS * (len(numbers) // BATCH), 1)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.2)
    network.train()
    for epoch in range(EPOCHS):
        total = 0.0
        for chosen in torch.randperm(len(numbers)).split(BATCH)[: len(numbers) // BATCH]:
            part = learned.of(chosen)
            read = numbers[chosen] + SHAKE * torch.randn(len(chosen), SHAPE_NUMBERS)
            now = loss(network, shaken(part.crop), read, part)
            optimiser.zero_grad()
            now.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            rates.step()
            total += float(now.detach())
        sys.stdout.write(f"\nepoch {epoch + 1} of {EPOCHS}: {total / max(len(numbers) // BATCH, 1):.3f}")
        sys.stdout.flush()
    network.eval()


@torch.no_grad()
def report(network: TurnedHeadsNetwork, others: Lesson) -> list[str]:
    """Of faces not learned from, by true yaw: how far landmarks are off as detected and put right, and the rotation."""
    groups = zip(others.crop.split(128), others.aligned.split(128))
    answers = [network(crops.float() / 255.0, network.numbers(aligned)) for crops, aligned in groups]
    along, R = (torch.cat(parts) for parts in zip(*answers))
    off = [others.moves, others.moves - network.moved(along)]
    before, after = (RADIUS_MM * each[:, :FACE_LANDMARKS].norm(dim=2).mean(dim=1).numpy() for each in off)
    turn = np.degrees(np.arccos((((R * others.R).sum(dim=(1, 2)) - 1.0) / 2.0).clamp(-1.0, 1.0).numpy()))
    yaw, lines = np.abs(others.yaw()), []
    for low, high in ((0, 25), (25, 45), (45, 60), (60, 75), (75, 95)):
        kind = (yaw >= low) & (yaw < high)
        if kind.any():
            figures = f"{before[kind].mean():.2f} mm -> {after[kind].mean():.2f} mm, {turn[kind].mean():.1f} degrees"
            lines.append(f"yaw {low} to {high}: {kind.sum()} faces, {figures}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=800, help=f"of {BLOCK} pictures")
    parser.add_argument("--skins", type=Path, action="append", default=[], help="folder of photos that lend skins")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--store", type=Path, required=True, help="folder that keeps what was seen")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = get_model("open-head")
    photos = [path for folder in options.skins for path in sorted(folder.glob("*.jpg"))]
    options.store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        skins = Path(folder) / "skins.npy" if photos else None
        if skins is not None:
            np.save(skins, unwrap_skins(model, photos), allow_pickle=False)
        seen = see(options.blocks, options.workers, skins, options.store)
    torch.manual_seed(0)
    torch.set_num_threads(options.workers)
    everybody = lesson(seen)
    learned = torch.arange(len(everybody.R)) % HELD_OUT != HELD_OUT - 1
    lessons = everybody.of(learned).with_mirrored()
    network = prepared(lessons, mean_landmarks(model))
    train(network, lessons)
    sys.stdout.write("\n" + "\n".join(report(network, everybody.of(~learned))) + "\n")
    save(network, options.out, len(everybody.R), model)


def save(network: TurnedHeadsNetwork, path: Path, faces: int, model: FaceModel) -> None:
    """Write the weights: they may be used as the head and the skins that they were learned on may."""
    albedo = albedo_of(model)
    infos = [model.info] if albedo is None else [model.info, albedo.info]
    about = ModelInfo(
        name="turned-heads",
        version="1.0.0",
        licence=joined(" and ", [info.licence for info in infos]),
        commercial=all(info.commercial for info in infos),
        terms=joined("; ", [info.terms for info in infos]),
        attribution=joined("\n", [info.attribution for info in infos]),
        extra={"faces": faces},
    )
    tensors = {name: tensor.half().numpy() for name, tensor in stored(network).items()}
    save_weights(path, tensors, WeightsInfo(ARCHITECTURE, model.info.name, about))


if __name__ == "__main__":
    main()
