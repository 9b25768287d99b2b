"""Learn what the regression gets wrong where a network has put landmarks right: it reads where they were moved, too.

    python -m trainer.learn_moved_correction --skins FOLDER --store FOLDER --out FILE

The faces are those that the network learned from (``learn_turned_heads.py``, the same ``--store``); the network is the
one that comes with the project. Symbols: N faces, L landmarks, I identity modes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from backend.face_model.registry import get_model
from backend.network.turned_heads import LANDMARK_SET, TurnedHeadsNetwork, shipped_network
from backend.reconstruction.correction import CorrectStage, with_moves
from backend.reconstruction.landmark_model import LandmarkModel
from trainer.face_lessons import Lesson, lesson
from trainer.learn_correction import Told, correction_of, mean_distance_map
from trainer.learn_turned_heads import put_right
from trainer.measure_detector import Mirror
from trainer.measure_views import fingerprint
from trainer.see_faces import add_arguments, not_learned_from, see_all

# Numbers of how landmarks lie and were moved, and hidden units.
NUMBERS, HIDDEN = 128, 320


def told_of(lm: LandmarkModel, network: TurnedHeadsNetwork, faces: Lesson, mirror: Mirror) -> Told:
    """What is known of N faces."""
    assert lm.regress is not None and lm.correct is not None
    parts = []
    for chosen in torch.arange(len(faces.R)).split(256):
        part = faces.of(chosen)
        detected, moved = part.aligned.to(lm.dtype), put_right(network, part)[0].to(lm.dtype)
        apart, after = lm.regress.apart(detected), lm.regress.apart(moved)
        answers = lm.regress.identity(detected, torch.ones(detected.shape[:2], dtype=lm.dtype))
        parts.append((with_moves(apart, after), lm.correct.identity(apart, answers)))
    apart, answers = (torch.cat(column) for column in zip(*parts))
    halves = apart.unflatten(1, (2, -1, 2)).unbind(1)
    mirrored = torch.cat([mirror.shapes(half).flatten(1) for half in halves], dim=1)
    return Told(apart, mirrored, answers, faces.identity.to(lm.dtype))


def report(told: Told, put_right: torch.Tensor, yaw: np.ndarray, kind: torch.Tensor, metres: torch.Tensor) -> list[str]:
    """Root mean square millimetres over the face, by yaw: mean face, answers so far, put right."""
    lines = []
    for low, high in ((0, 25), (25, 45), (45, 95)):
        chosen = kind & torch.from_numpy((yaw >= low) & (yaw < high))
        if chosen.any():
            wrong = [told.truth, told.truth - told.answers, told.truth - put_right]
            mm = [1000.0 * float((each[chosen] @ metres.mT).norm(dim=1).mean()) for each in wrong]
            lines.append(f"yaw {low} to {high}: {int(chosen.sum())} faces, {mm[0]:.3f} {mm[1]:.3f} {mm[2]:.3f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    lm = LandmarkModel(get_model("open-head"), LANDMARK_SET)
    mirror, metres = Mirror.of(lm.model), torch.as_tensor(mean_distance_map(lm.model))
    assert mirror is not None
    everybody = {kind: lesson(faces) for kind, faces in see_all(options).items()}
    told = {kind: told_of(lm, shipped_network(), faces, mirror) for kind, faces in everybody.items()}
    held_out = {kind: not_learned_from(len(faces.R)) for kind, faces in everybody.items()}
    torch.manual_seed(0)
    all_told = Told(*(torch.cat([getattr(each, f.name) for each in told.values()]) for f in fields(Told)))
    correction = correction_of(all_told, ~torch.cat(list(held_out.values())), metres, mirror, NUMBERS, HIDDEN)
    about = {
        "model": lm.model.info.name,
        "faces": str(len(all_told.truth)),
        "regressor": fingerprint(lm.model.info.name),
    }
    correction.save(options.out, about)
    stage = CorrectStage(correction, lm.device, lm.dtype)
    sys.stdout.write("mean face, as detected, put right, mm root mean square:\n")
    for kind, each in told.items():
        found = stage.identity(each.apart, each.answers)
        lines = report(each, found, np.abs(everybody[kind].yaw()), held_out[kind], metres)
        sys.stdout.write(f"{kind}\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
