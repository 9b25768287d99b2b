"""Learn what is wrong with the regression's answers for turned and covered faces.

People that the regression never saw are painted, a quarter of them turned anyhow, a fifth behind a hand or locks of
hair; they are detected, regressed, and a small network learns the true identity less the regressed one. What it is
judged by while it learns is how far the vertices of the face move, after the best similarity.

    python -m trainer.learn_correction --people 16000 --skins FOLDER --workers 2 --out FILE

Symbols: N people, L landmarks, I identity modes, V vertices, C, D, H as in ``backend/reconstruction/correction.py``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from backend.face_model.model import FaceModel
from backend.face_model.registry import get_model
from backend.geometry.alignment import small_similarities
from backend.geometry.rotation import head_euler_degrees, rotation_from_head_euler
from backend.reconstruction.correction import LARGEST_INPUT, Correction, CorrectStage
from backend.reconstruction.landmark_model import shipped_regressor
from backend.reconstruction.regress import RegressStage
from backend.rendering.tone import linear_to_srgb, srgb_to_linear
from trainer.data.occluders import Capsules, draw_over, hands_and_locks
from trainer.data.painter import Painter
from trainer.data.people import Person, draw_person, turned
from trainer.data.skins import unwrap_skins
from trainer.measure_detector import LANDMARKS, Mirror, detections
from trainer.measure_views import fingerprint

# After the people of the regression; evaluations use others.
FIRST_SEED = 1_020_000

# How many are turned anyhow, up to where no detector finds them, and how many have something before the face.
TURNED, LARGEST_YAW, COVERED = 0.25, 88.0, 0.2

# Numbers of the landmarks' shape and of an answer, directions in which answers are put right, hidden units.
SHAPE_NUMBERS, ANSWER_NUMBERS, HIDDEN = 64, 32, 160
# One in so many people is not learned from.
HELD_OUT = 10
EPOCHS, BATCH, RATE, DECAY, DROPPED, SHAKE = 14, 256, 2e-3, 0.3, 0.3, 0.05


@dataclass
class Seen:
    """N people: detected ``landmarks`` (N, L, 2), true ``identity`` (N, I), ``yaw`` (N,) degrees, ``covered`` (N,)."""

    landmarks: np.ndarray
    identity: np.ndarray
    yaw: np.ndarray
    covered: np.ndarray


def difficult_person(model: FaceModel, seed: int) -> tuple[Person, bool, np.random.Generator]:
    """The person of a seed, whether something is before the face, and the generator that draws it."""
    person = draw_person(model, seed)
    rng = np.random.default_rng([seed, 77])
    if rng.random() < TURNED:
        R = rotation_from_head_euler(rng.uniform(-LARGEST_YAW, LARGEST_YAW), rng.normal(0, 10), rng.normal(0, 8))
        person = turned(person, R)
    return person, rng.random() < COVERED, rng


def draw_difficult(model: FaceModel, painter: Painter, seed: int) -> np.ndarray:
    """(H, W, 3) uint8 picture of :func:`difficult_person`."""
    person, covered, rng = difficult_person(model, seed)
    picture = painter.paint(person, seed)
    if not covered:
        return picture
    capsules: Capsules | None = None
    while capsules is None or not bool((capsules.radius > 0).any()):
        capsules = hands_and_locks(1, len(picture), rng, torch.device("cpu"))
    linear = torch.as_tensor(srgb_to_linear(picture / 255.0), dtype=torch.float32)[None]
    drawn, _ = draw_over(linear, torch.zeros(linear.shape[:3]), capsules)
    return (255.0 * linear_to_srgb(drawn[0].numpy().clip(0.0, 1.0))).round().astype(np.uint8)


def see(model: FaceModel, people: int, workers: int, skins: Path | None) -> Seen:
    """Draw and detect, with a line that says how far it is."""
    rows = []
    for seed, landmarks in detections(model.info.name, people, workers, FIRST_SEED, skins, draw_difficult):
        if landmarks is not None:
            person, covered, _ = difficult_person(model, seed)
            yaw = head_euler_degrees(person.camera.R)["yaw"]
            rows.append((landmarks.astype(np.float32), person.identity, yaw, covered))
        sys.stdout.write(f"\r{len(rows)} found of {seed + 1 - FIRST_SEED}")
        sys.stdout.flush()
    return Seen(*(np.array(column) for column in zip(*rows)))


def learn(seen: Seen, model: FaceModel, regress: RegressStage, seed: int = 0) -> tuple[Correction, list[str]]:
    """The correction, and rows that say what it does for the people it did not learn from."""
    torch.manual_seed(seed)
    landmarks = torch.as_tensor(seen.landmarks, dtype=torch.float64)
    answers = torch.cat([regress.identity(part, torch.ones(part.shape[:2]).to(part)) for part in landmarks.split(500)])
    apart = torch.cat([regress.apart(part) for part in landmarks.split(500)])
    truth = torch.as_tensor(seen.identity, dtype=torch.float64)
    learned = torch.arange(len(truth)) % HELD_OUT != HELD_OUT - 1
    metres = torch.as_tensor(mean_distance_map(model))
    mirror = Mirror.of(model)
    seen_so = None if mirror is None else mirror.shapes(apart.unflatten(1, (-1, 2))).flatten(1)
    correction = correction_of(Told(apart, seen_so, answers, truth), learned, metres, mirror)
    put_right = CorrectStage(correction, truth.device, truth.dtype).identity(apart, answers)
    return correction, report(seen, ~learned.numpy(), truth, answers, put_right, metres)


@dataclass
class Told:
    """What is known of N people: what is read of their landmarks ``apart`` (N, R) and ``mirrored`` (N, R), as a mirror
    would show them, the ``answers`` (N, I) so far, and the ``truth`` (N, I)."""

    apart: torch.Tensor
    mirrored: torch.Tensor | None
    answers: torch.Tensor
    truth: torch.Tensor


def correction_of(
    told: Told,
    learned: torch.Tensor,
    metres: torch.Tensor,
    mirror: Mirror | None,
    numbers: int = SHAPE_NUMBERS,
    hidden: int = HIDDEN,
) -> Correction:
    """Learned from those people of N that ``learned`` (N,) says; ``metres`` as of :func:`mean_distance_map`."""
    wrong = (told.truth - told.answers) @ metres.mT
    # Directions in which answers are wrong, by how far the face moves.
    ways = torch.linalg.svd(wrong[learned].mT @ wrong[learned])[0][:, :ANSWER_NUMBERS]
    components = directions(told.apart[learned], numbers)
    rows = [components, (metres.mT @ ways).mT]
    read = torch.cat([told.apart @ rows[0].mT, told.answers @ rows[1].mT], dim=1)
    spread = read[learned].std(dim=0)
    shape_rows, answer_rows = rows[0] / spread[:numbers, None], rows[1] / spread[numbers:, None]
    middle = read[learned].mean(dim=0) / spread

    def standard(apart: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        read = torch.cat([apart @ shape_rows.mT, answers @ answer_rows.mT], dim=1) - middle
        return read.clamp(-LARGEST_INPUT, LARGEST_INPUT).float()

    inputs, targets = [standard(told.apart, told.answers)[learned]], [(wrong @ ways)[learned].float()]
    if mirror is not None and told.mirrored is not None:
        inputs.append(standard(told.mirrored, mirror.identities(told.answers))[learned])
        off = mirror.identities(told.truth - told.answers)
        targets.append(((off @ metres.mT) @ ways)[learned].float())
    network = train(torch.cat(inputs), torch.cat(targets), hidden)
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    (w1, b1), (w2, b2), (w3, b3) = ((layer.weight.detach().double(), layer.bias.detach().double()) for layer in layers)
    back = torch.linalg.solve(metres, ways)
    arrays = (shape_rows, answer_rows, middle, w1, b1, w2, b2, back @ w3, back @ b3)
    return Correction(*(array.numpy().astype(np.float32) for array in arrays))


def directions(points: torch.Tensor, count: int) -> torch.Tensor:
    """(N, K) -> (count, K) orthonormal, in which they are largest, all N of them."""
    _, vectors = torch.linalg.eigh((points.mT @ points).double())
    return vectors[:, -count:].mT.flip(0).to(points.dtype)


def mean_distance_map(model: FaceModel) -> np.ndarray:
    """(I, I) float64: takes a difference of identities to one whose norm is how far the vertices of the face move, root
    mean square in metres, after the best similarity (to first order)."""
    face = model.regions["face"]
    points = model.mean[face].astype(np.float64)
    space = np.linalg.qr(small_similarities(points))[0]
    moved = model.identity[:, face].astype(np.float64).reshape(len(model.identity), -1).T
    moved -= space @ (space.T @ moved)
    return np.linalg.qr(moved)[1] / np.sqrt(len(points))


def train(inputs: torch.Tensor, targets: torch.Tensor, hidden: int) -> nn.Sequential:
    """Three layers, by AdamW at one cycle of rates; starts from no correction at all."""
    network = nn.Sequential(
        nn.Linear(inputs.shape[1], hidden),
        nn.ReLU(),
        nn.Dropout(DROPPED),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(DROPPED),
        nn.Linear(hidden, targets.shape[1]),
    )
    last = network[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    # In millimetres, so that the rate means the same for every model.
    targets = 1000.0 * targets
    steps = max(EPOCHS * (len(inputs) // BATCH), 1)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(inputs)).split(BATCH)[: len(inputs) // BATCH]:
            shaken = inputs[chosen] + SHAKE * torch.randn(len(chosen), inputs.shape[1])
            loss = (network(shaken) - targets[chosen]).square().sum(dim=1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rates.step()
    with torch.no_grad():
        last.weight.div_(1000.0)
        last.bias.div_(1000.0)
    return network.eval()


def report(seen, held_out, truth, answers, put_right, metres) -> list[str]:
    """Root mean square millimetres over the face: mean face, regression, corrected; of people not learned from."""
    far, covered = np.abs(seen.yaw), seen.covered
    kinds = [("yaw 0 to 30", (far < 30) & ~covered), ("yaw 30 to 60", (far >= 30) & (far < 60) & ~covered)]
    kinds += [("yaw beyond 60", (far >= 60) & ~covered), ("covered", covered)]
    lines = []
    for name, kind in kinds:
        chosen = torch.as_tensor(kind & held_out)
        if chosen.any():
            wrong = [truth, truth - answers, truth - put_right]
            mm = [1000.0 * float(((each @ metres.mT)[chosen]).norm(dim=1).mean()) for each in wrong]
            lines.append(f"{name}: {int(chosen.sum())} people, {mm[0]:.3f} {mm[1]:.3f} {mm[2]:.3f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=16_000)
    parser.add_argument("--skins", type=Path, action="append", default=[], help="folder of photos that lend skins")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = get_model("open-head")
    regressor = shipped_regressor(model, LANDMARKS)
    assert regressor is not None
    photos = [path for folder in options.skins for path in sorted(folder.glob("*.jpg"))]
    with tempfile.TemporaryDirectory() as folder:
        skins = Path(folder) / "skins.npy" if photos else None
        if skins is not None:
            np.save(skins, unwrap_skins(model, photos), allow_pickle=False)
        seen = see(model, options.people, options.workers, skins)
    correction, lines = learn(seen, model, RegressStage(regressor, torch.device("cpu"), torch.float64))
    metadata = {"model": model.info.name, "people": str(len(seen.identity)), "asked": str(options.people)}
    correction.save(options.out, {**metadata, "regressor": fingerprint(model.info.name)})
    sys.stdout.write("\nmean face, regression, corrected, mm root mean square:\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
