"""The table of an ablation, in Markdown."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import torch

from trainer.train.config import Config
from trainer.train.processes import Processes

# Figure of ``validation.py``, heading, decimals.
COLUMNS = (
    ("rotation_degrees", "rotation, degrees", 2),
    ("rotation_60_90", "rotation beyond 60 degrees", 2),
    ("depth_mm", "depth, mm", 2),
    ("distance_percent", "distance, %", 2),
    ("shape_mm", "shape, mm", 3),
    ("landmarks_percent", "landmarks, %", 2),
    ("spread_mm", "one person's spread, mm", 2),
)
SINGLE_VIEW = (
    *("identity", "expression", "albedo", "light", "rotation", "place", "log_focal", "vertices", "landmarks"),
    *("error", "render", "shape_prior", "albedo_prior", "light_prior"),
)

Figures = Sequence[Mapping[str, float]]


def text(
    config: Config, titles: Mapping[str, str], results: Mapping[str, Figures], against: str, processes: Processes
) -> str:
    """The report.

    Parameters
    ----------
    config : Config
    titles : mapping of str to str
        Of every row, by name, in order.
    results : mapping of str to sequence of mapping
        Validation of each repetition; rows without are not there yet.
    against : str
        The row with which all others are compared.
    processes : Processes
        Where it was computed.
    """
    losses = config.losses
    single = ", ".join(f"{name} {getattr(losses, name):g}" for name in SINGLE_VIEW if getattr(losses, name) > 0)
    between = ", ".join(f"{name} {getattr(losses, name):g}" for name in ("pixel", "depth", "epipolar", "agreement"))
    repetitions = len(results.get(against, ()))
    lines = [
        f"Network `{config.network.size}`, {config.ablation.start_steps} steps of single-view losses, then "
        f"{config.run.steps} steps of each row from there, {config.optimiser.batch * processes.count} triplets a step. "
        f"Single-view losses: {single}. Between views: {between}; drawn with {losses.side} pixels. "
        f"{config.data.validation} triplets of invented people whom none has seen. {_repeated(repetitions)} "
        f"On {_device(processes)}.",
        "",
        _row(["", *(heading for _, heading, _ in COLUMNS)]),
        _row(["---", *("---:" for _ in COLUMNS)]),
    ]
    lines += [_row([title, *_means(results[name])]) for name, title in titles.items() if results.get(name)]
    if repetitions > 1:
        lines += ["", f"Difference from *{titles[against]}*, mean and standard error over repetitions:", ""]
        lines += [_row(["", *(heading for _, heading, _ in COLUMNS)]), _row(["---", *("---:" for _ in COLUMNS)])]
        for name, title in titles.items():
            if name != against and len(results.get(name, ())) > 1:
                lines.append(_row([title, *_differences(results[name], results[against])]))
    missing = [title for name, title in titles.items() if len(results.get(name, ())) < config.ablation.seeds]
    if missing:
        lines += ["", f"**Not finished:** {'; '.join(missing)}."]
    return "\n".join(lines) + "\n"


def _means(figures: Figures) -> list[str]:
    cells = []
    for name, _, decimals in COLUMNS:
        values = [one[name] for one in figures if name in one]
        cells.append(f"{fmean(values):.{decimals}f}" if values else "")
    return cells


def _differences(figures: Figures, against: Figures) -> list[str]:
    """Of repetitions that both have, one by one: people and first weights are the same in a repetition."""
    cells = []
    for name, _, decimals in COLUMNS:
        pairs = [mine[name] - other[name] for mine, other in zip(figures, against) if name in mine and name in other]
        if len(pairs) < 2:
            cells.append("")
            continue
        error = stdev(pairs) / len(pairs) ** 0.5
        cells.append(f"{fmean(pairs):+.{decimals}f} ± {error:.{decimals}f}")
    return cells


def _repeated(count: int) -> str:
    if count < 2:
        return "Done once, so differences as small as chance would make cannot be told from it."
    return f"Means of {count} repetitions with other people and other first weights."


def _device(processes: Processes) -> str:
    if processes.device.type == "cuda":
        name = torch.cuda.get_device_name(processes.device)
        return name if processes.count == 1 else f"{processes.count} x {name}"
    return f"the CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
