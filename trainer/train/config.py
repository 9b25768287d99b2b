"""Everything that decides what a training run does, in one file that reproduces it.

A configuration is a TOML file with the sections of :class:`Config`; what it leaves out has the defaults here. A run
writes the whole of it into its folder and into every checkpoint.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from backend.errors import TrainingError
from backend.network.backbone import SIZES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

PRECISIONS = ("float32", "bfloat16")
VARIANTS = ("ours", "published")

# Entries that name files and folders.
FILES = (("data", "model"), ("data", "shards"), ("data", "photos"))


@dataclass(frozen=True)
class NetworkConfig:
    """``size``: key of :data:`backend.network.backbone.SIZES`."""

    size: str = "small"


@dataclass(frozen=True)
class DataConfig:
    """Where pictures come from.

    ``model``: name or file of a face model. ``seed``: of the people. ``looks``: drawn ahead. ``supersampling``:
    pictures are drawn this many times as large. ``one_moment``, ``one_sitting``: parts of the triplets, see
    :class:`trainer.data.triplets.People`. ``validation``: triplets that are never trained on.

    ``shards``: a folder that ``mgcface train-data draw`` made, to train on instead of drawing. ``photos``: one that
    ``mgcface train-data photos`` or ``video`` made, from which ``photos_share`` of every batch comes.
    """

    model: str = "open-head"
    seed: int = 1
    looks: int = 512
    supersampling: int = 2
    one_moment: float = 0.4
    one_sitting: float = 0.3
    validation: int = 256
    shards: str = ""
    photos: str = ""
    photos_share: float = 0.25


@dataclass(frozen=True)
class LossConfig:
    """How much each loss counts, 0 for not at all; see ``objective.py``.

    The first block compares with what is known of invented people, in units of each group's spread
    (:data:`backend.network.outputs.SCALES`); ``vertices`` in millimetres, ``landmarks`` in squared pixels of a
    crop of 224. ``error``: what the network says of its own errors. The second block needs no truth, and is not
    needed where the first is: the head as it is drawn against the photo, and priors. The third compares the views
    of a triplet (:class:`trainer.losses.multi_view.LossWeights` has the origin of the numbers of both), drawn
    with ``side`` pixels, in the variant ``ours`` or ``published``.
    """

    identity: float = 1.0
    expression: float = 20.0
    albedo: float = 0.5
    light: float = 0.5
    rotation: float = 5.0
    place: float = 2.0
    log_focal: float = 0.3
    vertices: float = 0.3
    landmarks: float = 2e-3
    error: float = 0.05

    render: float = 0.0
    shape_prior: float = 0.0
    albedo_prior: float = 0.0
    light_prior: float = 0.0

    agreement: float = 1e-3
    pixel: float = 0.15
    depth: float = 0.1
    epipolar: float = 1e-3
    side: int = 96
    variant: str = "ours"


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with a rate that rises over ``warmup`` steps and falls as half a cosine to ``last_rate`` of itself.

    ``batch``: triplets of each process and step. ``clip``: largest norm of the gradient. ``average``: how
    slowly the average of the weights, which is what comes out, follows them. ``seed``: of the first weights.
    ``precision``: of the network; losses are always computed in float32.
    """

    rate: float = 1e-3
    last_rate: float = 0.01
    warmup: int = 500
    weight_decay: float = 0.02
    clip: float = 5.0
    batch: int = 64
    average: float = 0.999
    seed: int = 1
    precision: str = "float32"


@dataclass(frozen=True)
class RunConfig:
    """How far and how often; a run that goes on may change this, and ``steps`` decides how the rate falls.

    ``keep``: checkpoints that stay, the newest.
    """

    steps: int = 50_000
    checkpoint_every: int = 1000
    validate_every: int = 1000
    keep: int = 3


@dataclass(frozen=True)
class AblationConfig:
    """What only ``--ablation`` reads, see ``ablation.py``.

    ``start_steps``: of the run with single-view losses that all others start from. ``seeds``: how often
    everything is done, with other people and other first weights.
    """

    start_steps: int = 2000
    seeds: int = 1


@dataclass(frozen=True)
class Config:
    """A whole training run."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    run: RunConfig = field(default_factory=RunConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        return asdict(self)


def read_config(path: Path) -> Config:
    """A configuration from a TOML file; :class:`TrainingError` says what is wrong with it."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise TrainingError(f"The configuration {path} cannot be read ({error.strerror}); check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TrainingError(f"The configuration {path} is not TOML ({error}); correct it.") from error
    return parse_config(content, str(path))


def parse_config(content: dict[str, Any], source: str) -> Config:
    """Check every name, type and range; ``source`` is what an error names."""
    config = Config()
    for section, values in content.items():
        if section not in {entry.name for entry in fields(Config)} or not isinstance(values, dict):
            raise TrainingError(f'{source} has an unknown section "{section}"; remove it or correct its name.')
        part = getattr(config, section)
        types = {entry.name: type(getattr(part, entry.name)) for entry in fields(part)}
        for name, value in values.items():
            if name not in types:
                raise TrainingError(f'{source} has an unknown entry "{section}.{name}"; remove it or correct its name.')
            if types[name] is float and type(value) is int:
                value = float(value)
            if type(value) is not types[name]:
                raise TrainingError(
                    f'"{section}.{name}" of {source} is {value!r} where {types[name].__name__} is needed; correct it.'
                )
            part = replace(part, **{name: value})
        config = replace(config, **{section: part})
    _check(config, source)
    return config


def _check(config: Config, source: str) -> None:
    choices = (
        ("network.size", config.network.size, tuple(SIZES)),
        ("losses.variant", config.losses.variant, VARIANTS),
        ("optimiser.precision", config.optimiser.precision, PRECISIONS),
    )
    for name, value, known in choices:
        if value not in known:
            raise TrainingError(f'"{name}" of {source} is "{value}"; choose from {", ".join(known)}.')
    for section in ("data", "losses", "optimiser", "run", "ablation"):
        part = getattr(config, section)
        for entry in fields(part):
            value = getattr(part, entry.name)
            if isinstance(value, (int, float)) and not value >= 0:
                raise TrainingError(f'"{section}.{entry.name}" of {source} is {value}; it must not be negative.')
    least_one = ("data.looks", "data.supersampling", "data.validation", "losses.side", "optimiser.batch")
    least_one += ("run.steps", "run.checkpoint_every", "run.validate_every", "run.keep")
    least_one += ("ablation.start_steps", "ablation.seeds")
    for name in least_one:
        section, entry = name.split(".")
        if getattr(getattr(config, section), entry) < 1:
            raise TrainingError(f'"{name}" of {source} is 0; it must be at least 1.')
    if config.data.one_moment + config.data.one_sitting > 1.0:
        raise TrainingError(
            f'"data.one_moment" and "data.one_sitting" of {source} are more than 1 together; lower one.'
        )
    if config.data.photos_share > 1.0:
        raise TrainingError(f'"data.photos_share" of {source} is a part of every batch; it must not be above 1.')
    if config.optimiser.average >= 1.0:
        raise TrainingError(f'"optimiser.average" of {source} must be below 1, or the average never moves; lower it.')


def config_text(config: Config) -> str:
    """The configuration as TOML, every entry written out."""
    lines = []
    for section, values in config.as_dict().items():
        lines.append(f"[{section}]")
        # JSON's strings and numbers are TOML's.
        lines += [f"{name} = {_toml(value)}" for name, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def _toml(value: float | str) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def first_difference(before: Config, now: Config) -> str | None:
    """Name and values of the first entry that must not change when a run goes on, but did."""
    old, new = before.as_dict(), now.as_dict()
    for section in ("network", "data", "losses", "optimiser"):
        for name, value in new[section].items():
            # Files may lie elsewhere; whether they are the same is seen from their fingerprints.
            if old[section][name] != value and (section, name) not in FILES:
                return f'"{section}.{name}" was {old[section][name]!r} and is now {value!r}'
    return None


# What `--smoke` runs: a small network on small pictures, long enough to see that it learns.
SMOKE = Config(
    network=NetworkConfig(size="tiny"),
    data=DataConfig(looks=16, supersampling=1, validation=8),
    losses=LossConfig(side=32),
    optimiser=OptimiserConfig(rate=3e-3, warmup=10, batch=6, average=0.95),
    run=RunConfig(steps=100, checkpoint_every=50, validate_every=100),
)
