"""How good an albedo is, and whether it keeps its promises.

Symbols: P people, T tones, K modes, S side of the texture, N skins.
"""

from __future__ import annotations

import numpy as np

from backend.face_model.albedo import Albedo
from trainer.build_albedo.chart import Chart
from trainer.build_albedo.modes import SEEN_FULLY, Modes
from trainer.build_albedo.photos import Skins
from trainer.build_albedo.tones import ITA_CLASSES, ita_class, ita_of, lab_of_linear, without_highlights

# How skins differ from any sum of modes (log light), and how many texels of that are independent: together they say
# how far the modes follow a skin before they would rather stay near their mean.
NOISE, INDEPENDENT = 0.1, 500.0
# Numbers of modes that errors are given for.
STEPS = (0, 1, 2, 3, 5, 10, 20, 30, 40, 50)
# Invented skins whose tone is counted, and the seed of them.
DRAWN, SEED = 1000, 4


def measure(
    albedo: Albedo,
    found: Modes,
    plan: np.ndarray,
    learned: Skins,
    held_out: Skins,
    detail: np.ndarray,
    chart: Chart,
) -> dict:
    """All figures of ``docs/albedo.md``, rounded, ready for JSON."""
    steps = [count for count in STEPS if count <= len(albedo.sigma)]
    targets = albedo.tones.astype(float)
    lent = np.bincount(ita_class(targets), plan.sum(axis=0), minlength=len(ITA_CLASSES))
    drawn = ita_of(drawn_tones(albedo, chart, DRAWN))
    largest = found.shares.max(axis=0)
    similar = likeness(found, detail, chart)
    variance = np.cumsum(found.sigma**2) / found.total
    return {
        "people": len(learned),
        "people_by_set": {name: sum(each.startswith(name) for each in learned.names) for name in sets_of(learned)},
        "held_out": len(held_out),
        "modes": len(albedo.sigma),
        "modes_alike_on_both_sides": int(found.symmetric.sum()),
        "variance_explained": {str(count): round(float(variance[count - 1]), 4) for count in steps if count},
        "error_held_out": rounded(errors(albedo, held_out, chart, steps), steps),
        "error_learned": rounded(errors(albedo, learned, chart, steps), steps),
        "ita_before": by_class(np.bincount(ita_class(ita_of(learned.tone)), minlength=len(ITA_CLASSES)) / len(learned)),
        "ita_lent": by_class(lent),
        "ita_drawn": by_class(np.bincount(ita_class(drawn), minlength=len(ITA_CLASSES)) / DRAWN),
        "ita_range_before": [round(float(bound), 1) for bound in np.quantile(ita_of(learned.tone), [0, 1])],
        "ita_histogram": histogram(ita_of(learned.tone), targets, plan, drawn),
        "largest_share": {
            "of_any_mode": round(float(largest.max()), 4),
            "median_over_modes": round(float(np.median(largest)), 4),
            "of_the_first_ten": [round(float(each), 4) for each in largest[:10]],
        },
        "least_weight_of_a_person": round(float(plan.sum(axis=1).min() * len(learned)), 3),
        "largest_weight_of_a_person": round(float(plan.sum(axis=1).max() * len(learned)), 3),
        "largest_likeness_of_mode_and_person": round(float(similar.max()), 4),
        "file_misses_log_light": file_misses(albedo, found, chart),
    }


def errors(albedo: Albedo, skins: Skins, chart: Chart, steps: list[int]) -> np.ndarray:
    """(N, len(steps)): CIELAB distance (CIE 1976) between skins and what so many modes make of them.

    The mean over the texels that the photo showed; highlights are pressed as they were for learning.
    """
    inside = chart.inside
    modes = albedo.modes[:, inside].reshape(len(albedo.modes), -1)
    mean = np.log(albedo.mean[inside])
    result = np.zeros((len(skins), len(steps)))
    for row, (log, seen, tone) in enumerate(zip(skins.log, skins.seen, skins.tone)):
        skin = without_highlights(log, tone)[inside]
        shown = seen[inside] > SEEN_FULLY
        weight = np.repeat(np.minimum(seen[inside] / SEEN_FULLY, 1.0) * chart.counts[inside], 3)
        weight *= INDEPENDENT / (NOISE**2 * weight.sum())
        products, aims = (modes * weight) @ modes.T, (modes * weight) @ (skin - mean).ravel()
        truth = lab_of_linear(np.exp(skin[shown]))
        for column, count in enumerate(steps):
            fitted = np.linalg.solve(products[:count, :count] + np.eye(count), aims[:count])
            made = mean + (fitted @ modes[:count]).reshape(mean.shape)
            result[row, column] = np.linalg.norm(lab_of_linear(np.exp(made[shown])) - truth, axis=1).mean()
    return result


def drawn_tones(albedo: Albedo, chart: Chart, count: int) -> np.ndarray:
    """(count, 3) log linear colour of the bare skin of invented people, the median as of photographed ones."""
    bare = chart.trust > 0.5 * chart.trust.max()
    modes, mean = albedo.modes[:, bare].reshape(len(albedo.modes), -1), np.log(albedo.mean[bare])
    coefficients = albedo.draw(np.random.default_rng(SEED), count)
    return np.stack([np.median(mean + (each @ modes).reshape(mean.shape), axis=0) for each in coefficients])


def file_misses(albedo: Albedo, found: Modes, chart: Chart) -> dict[str, float]:
    """What rounding and the coarse layer do to usual skins, log light: all modes together, mean and 99.9th percentile
    over the texels."""
    apart = np.sqrt(((albedo.modes - found.modes)[:, chart.inside] ** 2).sum(axis=0)).max(axis=1)
    return {"mean": round(float(apart.mean()), 4), "p99.9": round(float(np.quantile(apart, 0.999)), 4)}


def likeness(found: Modes, detail: np.ndarray, chart: Chart) -> np.ndarray:
    """(P, K) squared cosine between each mode and what sets each person apart from the mean; 1 would be the person."""
    weight = np.sqrt(chart.counts[chart.inside])[None, :, None].astype(np.float32)
    people = ((detail - detail.mean(axis=0)) * weight).reshape(len(detail), -1)
    modes = (found.modes[:, chart.inside] * weight).reshape(len(found.modes), -1)
    sizes = np.linalg.norm(people, axis=1)[:, None] * np.linalg.norm(modes, axis=1)[None]
    return (people @ modes.T / sizes) ** 2


def histogram(before: np.ndarray, targets: np.ndarray, plan: np.ndarray, drawn: np.ndarray) -> dict:
    """Parts of all skins in steps of 10 degrees of typology angle: people, lent skins, drawn skins."""
    edges = np.arange(-90.0, 91.0, 10.0)
    counts = {
        "people": np.histogram(before, edges)[0] / len(before),
        "lent": np.histogram(targets, edges, weights=plan.sum(axis=0))[0],
        "drawn": np.histogram(drawn, edges)[0] / len(drawn),
    }
    return {"edges": edges.tolist(), **{name: np.round(values, 4).tolist() for name, values in counts.items()}}


def by_class(parts: np.ndarray) -> dict[str, float]:
    """Parts by the name of their class."""
    return {name: round(float(part), 3) for name, part in zip(ITA_CLASSES, parts)}


def rounded(values: np.ndarray, steps: list[int]) -> dict[str, float]:
    """Means over skins by the number of modes."""
    return {str(count): round(float(value), 2) for count, value in zip(steps, values.mean(axis=0))}


def sets_of(skins: Skins) -> list[str]:
    """The names of the sets that the photos came from."""
    return sorted({name.split("/")[0] for name in skins.names})
