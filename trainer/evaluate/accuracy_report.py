"""The figures of a run as a page of Markdown tables."""

from __future__ import annotations

from statistics import fmean

from trainer.evaluate import published
from trainer.evaluate.benchmarks import BENCHMARKS
from trainer.evaluate.markdown import percent, table

# What each rule of the identity search is called on the page, headline first.
RULES = {
    "cosine": "centred cosine (headline)",
    "cosine_centred_by_set": "cosine, neutral and smiling photos centred separately",
    "cosine_whitened": "cosine, coefficients weighted by their certainty",
    "likelihood_ratio": "same-person likelihood ratio from the fit's uncertainty",
    "mahalanobis": "Mahalanobis distance",
}

# The drawing beside the page.
CURVES = "cumulative.svg"


def markdown(figures: dict) -> str:
    """The whole page, ending in a newline."""
    parts = [_head(figures["header"])]
    if figures["truth"]:
        parts.append(_truth(figures["truth"]))
    if figures["photos"]:
        parts.append(_photos(figures["photos"]))
    if "zoom" in figures:
        parts.append(_zoom(figures["zoom"]))
    if "identity" in figures:
        parts.append(_identity(figures["identity"]))
    parts += [BENCHMARKS[name].page(row) for name, row in figures.get("benchmarks", {}).items()]
    return "\n\n".join(parts) + "\n"


def _head(header: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items() if version)
    return (
        "# Accuracy\n\n"
        "Written by the command below; `docs/evaluation.md` says what each figure means.\n\n"
        f"    {header['command']}\n\n"
        f"Model {header['model']} {header['model_version']}; "
        + (f"network {header['network']}; " if header.get("network") else "")
        + f"{header['machine']}; "
        f"Python {header['python']}; {versions}."
    )


def _truth(groups: dict) -> str:
    rows, notes = [], []
    for name, row in groups.items():
        floor = row["mean_face"]
        found = f"{row['found']} of {row['photos']}"
        if "refused" in row:
            notes.append(f"* {name}: {row['refused']}{_over_found(row['faces'])}")
            figures = ["refused"] * 5
        else:
            free = row["non_metrical"]
            figures = [f"**{free['mean_of_medians_mm']:.3f}**"]
            figures += [f"{free[key]:.3f}" for key in ("median_mm", "mean_mm", "std_mm")]
            figures.append(f"{row['metrical']['mean_of_medians_mm']:.3f}")
        rows.append([name, found, *figures, f"{floor['mean_of_medians_mm']:.3f}", f"{floor['median_mm']:.3f}"])
        notes += [f"* {name}, {face}: {reason}" for face, reason in row["failures"].items()]
    columns = ["set", "faces found", "mean of medians", "median", "mean", "std", "metrical mean of medians"]
    columns += ["mean face: mean of medians", "mean face: median"]
    text = "## Known faces: NoW protocol, millimetres\n\n" + table(columns, rows)
    text += "\n\n" + "\n".join(notes) if notes else ""
    if curves(groups):
        text += f"\n\n![Share of vertices that are nearer than a distance]({CURVES})"
    return text + "\n\n" + _beside_published(groups)


def curves(sets: dict) -> dict[str, list[float]]:
    """Name -> cumulative error curve, each set's mean face after it; only sets that are whole have one."""
    lines = {}
    for name, row in sets.items():
        if "curve" in row:
            lines |= {name: row["curve"], f"{name}: mean face": row["mean_face_curve"]}
    return lines


def _beside_published(sets: dict) -> str:
    """Our sets above the published rows of NoW."""
    rows: list[list] = []
    for name, row in sets.items():
        free = row.get("non_metrical")
        cells = [f"{free[key]:.2f}" for key in ("median_mm", "mean_mm", "std_mm")] if free else ["*refused*"] * 3
        rows.append([f"ours, {name}", *cells, "this run"])
    rows += [published.cells(row, 2) for row in published.NOW]
    return (
        "The same protocol on the benchmark's own test set, published. Its photos are taken in the wild and its scans "
        "are not ours, so these rows orient and do not rank.\n\n"
        + table(["method", "median", "mean", "std", "source"], rows)
    )


def _over_found(faces: dict) -> str:
    """What the faces that were reconstructed say, beside the mean face on the same ones."""
    if not faces:
        return ""
    ours = fmean(face["median_mm"] for face in faces.values())
    floor = fmean(face["mean_face_median_mm"] for face in faces.values())
    return f" Over the {len(faces)} that were: {ours:.3f} mm, mean face of the same {floor:.3f} mm."


def _photos(sets: dict) -> str:
    rows, notes = [], []
    for name, row in sets.items():
        shares = [percent(row[key]) for key in ("median_relative", "p90_relative", "worst_relative")]
        rows.append([name, f"{row['found']} of {row['photos']}", *shares, percent(row["median_rms_relative"])])
        notes += [f"* {photo}: {reason}" for photo, reason in row["failures"].items()]
    columns = ["set", "faces found", "median", "90th percentile", "worst", "median of rms"]
    text = "## Real photos: reprojection error over face height\n\n" + table(columns, rows)
    return text + ("\n\n" + "\n".join(notes) if notes else "")


def _zoom(zoom: dict) -> str:
    rows = [
        [f"{100 * true:.0f} cm", f"{100 * solved:.1f} cm"] for true, solved in zip(zoom["true_m"], zoom["solved_m"])
    ]
    text = "## One person at four distances\n\n" + table(["taken at", "solved"], rows)
    text += f"\n\nDistances in the right order: {'yes' if zoom['in_order'] else 'no'}."
    if "within_mm" in zoom:
        spreads = [(label, zoom[key]) for label, key in (("her four", "within_mm"), ("hers to others", "between_mm"))]
        rows = [[label, *(f"{s[key]:.2f} mm" for key in ("mean", "least", "largest"))] for label, s in spreads]
        text += "\n\n" + table(["neutral shapes", "mean", "least", "largest"], rows)
        text += f"\n\nNearest shapes that are her own: {zoom['nearest_is_self']} of {zoom['nearest_of']}."
    return text


def _identity(identity: dict) -> str:
    people = identity["people"]
    rows = [
        [
            label,
            *(f"{identity['rank1'][rule][way]} of {people}" for way in ("neutral_to_smiling", "smiling_to_neutral")),
        ]
        for rule, label in RULES.items()
        if rule in identity["rank1"]
    ]
    text = "## Identity: the nearest neighbour is the same person\n\n"
    text += table(["rule", "neutral looks for smiling", "smiling looks for neutral"], rows)
    return text + f"\n\nBoth photos usable: {identity['usable']} of {people} people. Chance is 1."
