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
from pathlib import Path

import numpy as np
import torch
from torch import nn

from backend.face_model.model import FaceModel, ModelInfo
from backend.face_model.registry import get_model
from backend.network.turned_heads import (
    ARCHITECTURE,
    FACE_LANDMARKS,
    LANDMARK_SET,
    MOVES,
    RADIUS_MM,
    SHAPE_NUMBERS,
    TurnedHeadsNetwork,
    read_turned_heads,
    stored,
)
from backend.network.weights_file import WeightsInfo, save_weights
from backend.reconstruction.contour import CONTOURS
from backend.reconstruction.skin_statistics import albedo_of
from trainer.face_lessons import Lesson, lesson, mirrored, pasted, shaken, together
from trainer.learn_correction import directions
from trainer.see_faces import add_arguments, mean_landmarks, not_learned_from, see_all
from trainer.train.loop import joined

# Numbers of the shape that vary by less, radii, are not made to vary by one.
LEAST_SPREAD = 1e-3
EPOCHS, BATCH, RATE, DECAY, SHAKE = 18, 64, 2e-3, 0.05, 0.05
# How much a degree of the rotation counts beside a millimetre of the landmarks, and an outline's landmark, which may be
# anywhere along it, beside another.
DEGREE, OUTLINE = 0.3, 0.3


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


def loss(network: TurnedHeadsNetwork, crops: torch.Tensor, numbers: torch.Tensor, part: Lesson) -> torch.Tensor:
    """Millimetres of the landmarks and degrees of the rotation, robust against some that are far off."""
    along, R = network(crops, numbers)
    off = RADIUS_MM * (network.moved(along) - part.moves())
    millimetres = (landmark_weights(off.shape[1]) * (off.square().sum(dim=2) + 1.0).sqrt()).mean()
    # The squared Frobenius norm of a small turn is twice its square.
    degrees = ((R - part.R).square().sum(dim=(1, 2)) * (0.5 * np.degrees(1.0) ** 2) + 4.0).sqrt().mean()
    return millimetres + DEGREE * degrees


def train(network: TurnedHeadsNetwork, learned: Lesson, passes: int = EPOCHS) -> None:
    """AdamW at one cycle of rates, with a line for each pass."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = max(len(learned.R) // BATCH, 1)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=passes * batches, pct_start=0.15)
    network.train()
    began = time.monotonic()
    for epoch in range(passes):
        total = 0.0
        for chosen in torch.randperm(len(learned.R)).split(BATCH)[:batches]:
            part = learned.of(chosen)
            part = part.mirrored() if torch.rand(()) < 0.5 else part
            numbers = network.numbers(part.aligned)
            numbers = numbers + SHAKE * torch.randn_like(numbers)
            now = loss(network, shaken(pasted(part.crops())), numbers, part)
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
    along, R = network(part.crops(), network.numbers(part.aligned))
    turn = torch.rad2deg((((R * part.R).sum(dim=(1, 2)) - 1.0) / 2.0).clamp(-1.0, 1.0).arccos())
    return part.aligned + network.moved(along), turn


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
    learned = together([faces.of(~held_out[kind]) for kind, faces in everybody.items()])
    network = prepared(learned, mean_landmarks(model)) if options.start is None else read_turned_heads(options.start)
    train(network, learned, options.passes)
    for kind, faces in everybody.items():
        sys.stdout.write(f"{kind}\n" + "\n".join(report(network, faces.of(held_out[kind]))) + "\n")
    save(network, options.out, sum(len(faces.R) for faces in everybody.values()), model)


def save(network: TurnedHeadsNetwork, path: Path, faces: int, model: FaceModel) -> None:
    """Write the weights: they may be used as the head and the skins that they were learned on may."""
    albedo = albedo_of(model)
    infos = [model.info] if albedo is None else [model.info, albedo.info]
    about = ModelInfo(
        name="turned-heads",
        version="2.1.0",
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
