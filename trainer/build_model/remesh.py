"""Instant Meshes' quads (Jakob et al. 2015), the same every time.

Even when asked to be deterministic, the library's threads race: on two cores it gives one of two answers for
the gums, each about half the time. On one core it gives one. The number of its threads is set once per process,
by the cores that the process may use, so it gets a process of its own: this file, run as a program.

Symbols: V vertices, T triangles, F quads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from backend.errors import ModelError

# Where a process cannot be held to one core (macOS, Windows) the most frequent of this many answers is taken.
VOTES = 9


def remesh(points: np.ndarray, triangles: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 and quads (F, 4) for a surface.

    Parameters
    ----------
    points : (N, 3) float
    triangles : (T, 3) int
    count : int
        Vertices to aim for before the last step, which makes about four times as many.
    """
    with tempfile.TemporaryDirectory(prefix="mgcface-remesh-") as folder:
        question, answer = Path(folder) / "question.npz", Path(folder) / "answer.npz"
        np.savez(question, points=points.astype(np.float32), triangles=triangles.astype(np.uint32), count=count)
        # What the library prints about itself is of no use to anybody.
        command = [sys.executable, "-m", __name__, str(question), str(answer)]
        root = Path(__file__).parents[2]
        child = subprocess.run(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        if child.returncode != 0:
            raise ModelError(f"Instant Meshes failed on the gums: {child.stderr.decode(errors='replace').strip()}")
        with np.load(answer) as arrays:
            return arrays["vertices"].astype(float), arrays["quads"].astype(int)


def main(question: Path, answer: Path) -> None:
    """The process of its own: arrays from one file, quads into another."""
    votes = 1 if keep_to_one_core() else VOTES
    # Only now: the library counts the cores when it is first used.
    import pynanoinstantmeshes

    with np.load(question) as arrays:
        points, triangles, count = arrays["points"], arrays["triangles"], int(arrays["count"])

    def ask() -> tuple[np.ndarray, np.ndarray]:
        vertices, quads = pynanoinstantmeshes.remesh(
            points, triangles, vertex_count=count, align_to_boundaries=True, deterministic=True
        )
        return np.array(vertices), np.array(quads)

    vertices, quads = most_frequent(ask, votes)
    np.savez(answer, vertices=vertices, quads=quads)


def keep_to_one_core() -> bool:
    """Hold this process to one of its cores; False where the system has no call for that."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return True


def most_frequent(ask: Callable[[], tuple[np.ndarray, np.ndarray]], votes: int) -> tuple[np.ndarray, np.ndarray]:
    """The answer that comes most often, the first of them where several do."""
    answers: dict[bytes, list] = {}
    for _ in range(votes):
        vertices, quads = ask()
        answers.setdefault(vertices.tobytes() + quads.tobytes(), []).append((vertices, quads))
    return max(answers.values(), key=len)[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
