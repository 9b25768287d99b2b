"""Learn where the landmarks of turned and of covered heads are, when a detector guesses them.

Invented people turned to up to 88 degrees, or behind masks, hands, hair and the like, are drawn in skins of
photographed ones and detected (``see_faces.py``); a small network sees the detector's crop and landmarks and learns
what moves them to where the fit would have them, and the rotation.

    python -m trainer.learn_turned_heads --skins FOLDER --workers 2 --store FOLDER --out FILE

What was seen is kept in ``--store``, so that work that stopped goes on. Symbols as in
``backend/network/turned_heads.py``; N faces.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import nn

from backend.face_model.model import FaceModel, ModelInfo
from backend.face_model.registry import get_model
from backend.geometry.rotation import head_euler_degrees
from backend.network.turned_heads import (
    ARCHITECTURE,
    FACE_LANDMARKS,
    LANDMARK_SET,
    MOVES,
    RADIUS_MM,
    REACH,
    SHAPE_NUMBERS,
    SIDE,
    Alignment,
    TurnedHeadsNetwork,
    align,
    read_turned_heads,
    stored,
)
from backend.network.weights_file import WeightsInfo, save_weights
from backend.reconstruction.contour import CONTOURS
from backend.reconstruction.skin_statistics import albedo_of
from backend.vision.landmark_sets import MIRROR
from trainer.learn_correction import directions
from trainer.see_faces import STORED_REACH, Seen, add_arguments, mean_landmarks, not_learned_from, see_all
from trainer.train.loop import joined

# A face whose landmarks are off by more, millimetres (median), is something else that the detector took for one.
NOT_A_FACE_MM = 25.0
# Numbers of the shape that vary by less, radii, are not made to vary by one.
LEAST_SPREAD = 1e-3
EPOCHS, BATCH, RATE, DECAY, SHAKE = 16, 64, 2e-3, 0.05, 0.05
# How much a degree of the rotation counts beside a millimetre of the landmarks, and an outline's landmark, which may be
# anywhere along it, beside another.
DEGREE, OUTLINE = 0.3, 0.3
# So many of the faces are seen as detected. Of the others a detector might know more: landmarks are anywhere between
# there and where they are, and off by up to so many millimetres along the directions in which they move.
AS_DETECTED, OFF_MM = 0.8, 3.6
# The part of crops in which something is pasted, and its radii in parts of half a side; the part that is seen with few
# pixels, and how few at least, in parts of a side; noise at most.
PASTED, PASTED_RADII = 0.3, (0.1, 0.6)
WITH_FEW_PIXELS, FEWEST_PIXELS, NOISE = 0.2, 0.25, 0.04


@dataclass
class Lesson:
    """Tensors of N faces, as in :class:`Seen`."""

    aligned: torch.Tensor
    wanted: torch.Tensor
    R: torch.Tensor
    crop: torch.Tensor
    identity: torch.Tensor

    def of(self, chosen: torch.Tensor) -> Lesson:
        return Lesson(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def mirrored(self) -> Lesson:
        """As seen in a mirror; not the identity."""
        across = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
        R, crop = across @ self.R @ across, self.crop.flip(2)
        return Lesson(mirrored(self.aligned), mirrored(self.wanted), R, crop, self.identity)

    def moves(self) -> torch.Tensor:
        """(N, L, 2) what is wanted less what is detected, radii."""
        return self.wanted - self.aligned

    def yaw(self) -> np.ndarray:
        """(N,) degrees."""
        return np.array([head_euler_degrees(R)["yaw"] for R in self.R.double().numpy()])


def mirrored(points: torch.Tensor) -> torch.Tensor:
    """(N, L, 2) landmarks in a mirror."""
    return points[:, MIRROR] * torch.tensor([-1.0, 1.0])


def lesson(seen: Seen) -> Lesson:
    """Of those that are faces."""
    whole = Lesson(*(torch.from_numpy(getattr(seen, f.name)) for f in fields(Lesson)))
    faces = whole.moves()[:, :FACE_LANDMARKS].norm(dim=2).median(dim=1).values < NOT_A_FACE_MM / RADIUS_MM
    return whole.of(faces)


def landmark_weights(landmarks: int) -> torch.Tensor:
    """(L,) how much each counts, one on average."""
    weight = torch.ones(landmarks)
    weight[list(CONTOURS[LANDMARK_SET])] = OUTLINE
    return weight / weight.mean()


def prepared(learned: Lesson, shape: np.ndarray) -> TurnedHeadsNetwork:
    """An untrained network whose buffers are those of the people to learn from, and of their mirror images."""
    network = TurnedHeadsNetwork(len(shape))
    network.shape.copy_(torch.from_numpy(shape))
    apart = torch.cat([learned.aligned, mirrored(learned.aligned)]).sub(network.shape).flatten(1)
    rows = directions(apart, SHAPE_NUMBERS)
    network.shape_rows.copy_(rows / (apart @ rows.mT).std(dim=0).clamp_min(LEAST_SPREAD)[:, None])
    moves = learned.moves()
    # The weights' square roots, so that what is left over counts as in the loss.
    counts = landmark_weights(len(shape)).sqrt().repeat_interleave(2)
    flat = torch.cat([moves, mirrored(moves)]).flatten(1) * counts
    axes = directions(flat, MOVES)
    # Of the size of the largest, so that the network answers with numbers about one.
    network.moves.copy_(axes / counts * (flat @ axes[0]).std())
    return network


@dataclass
class Asked:
    """What the network is shown of B faces, and what it should say: ``moves`` (B, L, 2) radii and R (B, 3, 3)."""

    crops: torch.Tensor
    numbers: torch.Tensor
    moves: torch.Tensor
    R: torch.Tensor


def asked(network: TurnedHeadsNetwork, part: Lesson, points: torch.Tensor) -> tuple[Asked, Alignment]:
    """About B faces whose landmarks are thought to be at ``points`` (B, L, 2), radii, and how they then lie."""
    lies = align(points.double().numpy(), network.shape.double().numpy())
    read, wanted = (torch.from_numpy(lies.to_radii(each.double().numpy())).float() for each in (points, part.wanted))
    R = torch.from_numpy(lies.upright(part.R.double().numpy())).float()
    return Asked(cut(part.crop, lies), network.numbers(read), wanted - read, R), lies


def cut(crops: torch.Tensor, lies: Alignment) -> torch.Tensor:
    """(B, STORED_SIDE, STORED_SIDE, 3) uint8 -> (B, S, S, 3) 0 to 1, as the network sees faces that lie so."""
    back = REACH / STORED_REACH / lies.factor
    rows = [
        [back.real, -back.imag, lies.middle[:, 0] / STORED_REACH],
        [back.imag, back.real, lies.middle[:, 1] / STORED_REACH],
    ]
    affine = torch.from_numpy(np.array(rows).transpose(2, 0, 1)).float()
    grid = nn.functional.affine_grid(affine, [len(crops), 3, SIDE, SIDE], align_corners=False)
    stored = crops.permute(0, 3, 1, 2).float() / 255.0
    return nn.functional.grid_sample(stored, grid, padding_mode="border", align_corners=False).permute(0, 2, 3, 1)


def guessed(part: Lesson, network: TurnedHeadsNetwork) -> torch.Tensor:
    """(B, L, 2) where landmarks are thought to be, drawn at random: as detected, or nearer."""
    count = len(part.R)
    nearer = torch.where(torch.rand(count, 1, 1) < AS_DETECTED, torch.zeros(count, 1, 1), torch.rand(count, 1, 1))
    axes = nn.functional.normalize(network.moves, dim=1) * network.shape.shape[0] ** 0.5
    size = torch.rand(count, 1) * OFF_MM / RADIUS_MM / len(axes) ** 0.5
    off = (size * torch.randn(count, len(axes)) @ axes).unflatten(1, (-1, 2))
    return part.aligned + nearer * (part.moves() + off)


def shaken(crops: torch.Tensor) -> torch.Tensor:
    """(B, S, S, 3) by another camera: other light, other white balance, noise; some without colour, some with few
    pixels."""
    count, side = crops.shape[:2]
    few = torch.rand(count) < WITH_FEW_PIXELS
    if few.any():
        pixels = int(side * float(torch.empty(()).uniform_(FEWEST_PIXELS, 1.0)))
        small = nn.functional.interpolate(crops[few].permute(0, 3, 1, 2), size=(pixels, pixels), mode="area")
        small = nn.functional.interpolate(small, size=(side, side), mode="bilinear")
        crops = crops.index_put((few,), small.permute(0, 2, 3, 1))
    values = crops ** torch.exp(0.3 * torch.randn(count, 1, 1, 1))
    values = values * (1.0 + 0.15 * torch.randn(count, 1, 1, 3))
    grey = torch.rand(count, 1, 1, 1) < 0.25
    values = torch.where(grey, values.mean(dim=3, keepdim=True), values)
    return values + NOISE * torch.rand(count, 1, 1, 1) * torch.randn_like(values)


def pasted(crops: torch.Tensor) -> torch.Tensor:
    """(B, S, S, 3) with an ellipse of another crop, or of a colour, in some of them: nothing seen is sure to stay."""
    chosen = torch.rand(len(crops)) < PASTED
    count, side = int(chosen.sum()), crops.shape[1]
    middle, turn = torch.empty(2, count, 1, 1).uniform_(-1.0, 1.0), np.pi * torch.rand(count, 1, 1)
    x, y = torch.linspace(-1.0, 1.0, side)[None, None] - middle[0], torch.linspace(-1.0, 1.0, side)[:, None] - middle[1]
    wide, high = torch.empty(2, count, 1, 1).uniform_(*PASTED_RADII)
    along, across = turn.cos() * x + turn.sin() * y, turn.cos() * y - turn.sin() * x
    inside = ((along / wide) ** 2 + (across / high) ** 2 < 1.0)[..., None]
    other = crops[torch.randint(len(crops), (count,))]
    other = torch.where(torch.rand(count, 1, 1, 1) < 0.5, other, torch.rand(count, 1, 1, 3))
    return crops.index_put((chosen,), torch.where(inside, other, crops[chosen]))


def loss(network: TurnedHeadsNetwork, shown: Asked, weight: torch.Tensor) -> torch.Tensor:
    """Millimetres of the landmarks and degrees of the rotation, robust against some that are far off."""
    along, R = network(shown.crops, shown.numbers)
    off = RADIUS_MM * (network.moved(along) - shown.moves)
    millimetres = (weight * (off.square().sum(dim=2) + 1.0).sqrt()).mean()
    # The squared Frobenius norm of a small turn is twice its square.
    degrees = ((R - shown.R).square().sum(dim=(1, 2)) * (0.5 * np.degrees(1.0) ** 2) + 4.0).sqrt().mean()
    return millimetres + DEGREE * degrees


def train(network: TurnedHeadsNetwork, learned: Lesson, passes: int = EPOCHS) -> None:
    """AdamW at one cycle of rates, with a line for each pass."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weight, batches = landmark_weights(len(network.shape)), max(len(learned.R) // BATCH, 1)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=passes * batches, pct_start=0.15)
    network.train()
    began = time.monotonic()
    for epoch in range(passes):
        total = 0.0
        for chosen in torch.randperm(len(learned.R)).split(BATCH)[:batches]:
            part = learned.of(chosen)
            part = part.mirrored() if torch.rand(()) < 0.5 else part
            shown, _ = asked(network, part, guessed(part, network))
            shown.crops = shaken(pasted(shown.crops))
            shown.numbers = shown.numbers + SHAKE * torch.randn_like(shown.numbers)
            now = loss(network, shown, weight)
            optimiser.zero_grad()
            now.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            rates.step()
            total += float(now.detach())
        sys.stdout.write(f"pass {epoch + 1} of {passes}: {total / batches:.3f}, {time.monotonic() - began:.0f} s\n")
        sys.stdout.flush()
    network.eval()


@torch.no_grad()
def put_right(network: TurnedHeadsNetwork, part: Lesson) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L, 2) landmarks where the network has them, radii, and how far off its rotation is, (B,) degrees."""
    shown, lies = asked(network, part, part.aligned)
    along, R = network(shown.crops, shown.numbers)
    moves = torch.from_numpy(lies.moves_to_pixels(network.moved(along).double().numpy()))
    turn = torch.rad2deg((((R * shown.R).sum(dim=(1, 2)) - 1.0) / 2.0).clamp(-1.0, 1.0).arccos())
    return part.aligned + moves.float(), turn


def report(network: TurnedHeadsNetwork, others: Lesson) -> list[str]:
    """Of faces not learned from, by true yaw: how far landmarks are off as detected and put right, and the rotation."""
    split = [others.of(chosen) for chosen in torch.arange(len(others.R)).split(128)]
    points, turn = (torch.cat(parts) for parts in zip(*(put_right(network, part) for part in split)))
    off = [each - others.wanted for each in (others.aligned, points)]
    before, after = (RADIUS_MM * each[:, :FACE_LANDMARKS].norm(dim=2).mean(dim=1).numpy() for each in off)
    yaw, lines = np.abs(others.yaw()), []
    for low, high in ((0, 25), (25, 45), (45, 60), (60, 75), (75, 95)):
        kind = (yaw >= low) & (yaw < high)
        if kind.any():
            figures = (
                f"{before[kind].mean():.2f} mm -> {after[kind].mean():.2f} mm, {turn.numpy()[kind].mean():.1f} degrees"
            )
            lines.append(f"yaw {low} to {high}: {kind.sum()} faces, {figures}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--passes", type=int, default=EPOCHS, help="over all faces")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = get_model("open-head")
    everybody = {kind: lesson(faces) for kind, faces in see_all(options).items()}
    held_out = {kind: not_learned_from(len(faces.R)) for kind, faces in everybody.items()}
    torch.manual_seed(0)
    torch.set_num_threads(options.workers)
    parts = [faces.of(~held_out[kind]) for kind, faces in everybody.items()]
    lessons = Lesson(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Lesson)))
    network = prepared(lessons, mean_landmarks(model)) if options.start is None else read_turned_heads(options.start)
    train(network, lessons, options.passes)
    for kind, faces in everybody.items():
        sys.stdout.write(f"{kind}\n" + "\n".join(report(network, faces.of(held_out[kind]))) + "\n")
    save(network, options.out, sum(len(faces.R) for faces in everybody.values()), model)


def save(network: TurnedHeadsNetwork, path: Path, faces: int, model: FaceModel) -> None:
    """Write the weights: they may be used as the head and the skins that they were learned on may."""
    albedo = albedo_of(model)
    infos = [model.info] if albedo is None else [model.info, albedo.info]
    about = ModelInfo(
        name="turned-heads",
        version="2.0.0",
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
