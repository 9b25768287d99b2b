"""Which kind of network learns most for its time, and in which form it should say a rotation.

Networks of several kinds are trained on the same pictures in the same order, with the same losses and rates, and
measured on the same people, whom none has seen. What is compared with the plain residual units of ``backbone.py``:

- inverted residuals with a depthwise 3x3 and a gate over channels (Howard et al. 2019, "Searching for MobileNetV3",
  section 5.1), and ConvNeXt blocks (Liu et al. 2022, "A ConvNet for the 2020s", figure 4), at the same widths;
- plain units of half the width;
- rotations as three Euler angles instead of six numbers.

    python -m trainer.compare_networks --config trainer/train/recipes/cpu.toml --steps 1500 --out out/networks

The configuration's ``network.size`` gives the widths. What is finished is not done again by the same command.

Symbols: B batch, C channels, H, W size of a map, S side of a crop.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backend.face_model.file_format import write_atomically
from backend.geometry.rotation import FRONTAL
from backend.network.backbone import SIZES, Backbone, Normalised, Size
from backend.network.outputs import SCALES, Layout, Predicted, decode
from trainer.evaluate.markdown import table
from trainer.train.config import Config, read_config
from trainer.train.loop import follow, held_out, make_optimiser, rate_at
from trainer.train.objective import terms, total
from trainer.train.sources import training_source
from trainer.train.start import chosen_head
from trainer.train.validation import validate

# Channels inside an inverted residual and inside a ConvNeXt block, times those outside; and of a gate, over them.
EXPANSION, GATE = 4, 4
# The share of its own a ConvNeXt block starts with (layer scale, their section A.1).
FIRST_SHARE = 0.1
# Faces at a time, and how often, when time is measured.
TIMED_BATCHES, TIMED = (1, 8), 40

SHOWN = ("shape_mm", "landmarks_percent", "rotation_degrees", "rotation_60_90", "depth_mm", "expression", "supervised")


class Inverted(nn.Module):
    """Widen, look around each channel by itself, gate, narrow, add."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = EXPANSION * inputs
        self.widen, self.narrow = Normalised(inputs, inner, 1), Normalised(inner, outputs, 1)
        self.around = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(inner)
        self.gate = nn.Sequential(
            nn.Conv2d(inner, inner // GATE, 1), nn.ReLU(), nn.Conv2d(inner // GATE, inner, 1), nn.Hardsigmoid()
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        inner = nn.functional.hardswish(self.norm(self.around(nn.functional.hardswish(self.widen(x)))))
        found = self.narrow(inner * self.gate(inner.mean(dim=(2, 3), keepdim=True)))
        return x + found if self.adds else found

    def fuse(self) -> None:
        """One convolution of the depthwise one and its normalisation, for inference; the others do it themselves."""
        assert isinstance(self.norm, nn.BatchNorm2d)
        self.around = fuse_conv_bn_eval(self.around, self.norm)
        self.norm = nn.Identity()


class ConvNext(nn.Module):
    """One ConvNeXt block, after the 2x2 convolution that makes the map smaller where one is due."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.before = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, stride, stride)
        self.around = nn.Conv2d(outputs, outputs, 7, padding=3, groups=outputs)
        self.norm = nn.LayerNorm(outputs)
        self.widen, self.narrow = nn.Linear(outputs, EXPANSION * outputs), nn.Linear(EXPANSION * outputs, outputs)
        self.share = nn.Parameter(torch.full((outputs,), FIRST_SHARE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        x = self.before(x)
        # Channels last in memory: the views below copy nothing.
        inner = self.norm(self.around(x).permute(0, 2, 3, 1))
        inner = self.share * self.narrow(nn.functional.gelu(self.widen(inner)))
        return x + inner.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Candidate:
    """A name for files, one for people, the ``unit`` of its stages (None: plain), its width over the
    configuration's, whether its rotation is three angles, and the seed of its first weights."""

    name: str
    title: str
    unit: type[Inverted | ConvNext] | None = None
    width: float = 1.0
    euler: bool = False
    seed: int = 1


CANDIDATES = (
    Candidate("plain", "plain residual units, six numbers"),
    Candidate("euler", "the same, Euler angles", euler=True),
    Candidate("inverted", "inverted residuals (MobileNetV3)", Inverted),
    Candidate("convnext", "ConvNeXt blocks", ConvNext),
    Candidate("half", "plain, half the width", width=0.5),
    Candidate("plain-2", "plain residual units, other first weights", seed=2),
    Candidate("euler-2", "Euler angles, other first weights", euler=True, seed=2),
)


def build(candidate: Candidate, size: Size, outputs: int) -> Backbone:
    """The network of a candidate, not trained."""
    torch.manual_seed(candidate.seed)
    a, b, c, d = (int(candidate.width * width) for width in size.widths)
    size = replace(size, widths=(a, b, c, d))
    network = Backbone(size, outputs)
    if candidate.unit is not None:
        stages: list[nn.Module] = []
        inputs = size.widths[0]
        for stage, (width, units) in enumerate(zip(size.widths, size.units)):
            for unit in range(units):
                stages.append(candidate.unit(inputs, width, 2 if stage and not unit else 1))
                inputs = width
        network.stages = nn.Sequential(*stages)
    # PyTorch's types do not know the argument.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def decoded(numbers: torch.Tensor, layout: Layout, euler: bool) -> Predicted:
    """What numbers mean; with ``euler`` the first three of the rotation's six are angles and the others nothing."""
    said = decode(numbers.float(), layout)
    if not euler:
        return said
    place = 0
    for name, size in layout.sizes.items():
        if name == "rotation":
            break
        place += size
    return replace(said, R=rotation_from_euler(SCALES["rotation"] * numbers[:, place : place + 3].float()))


def rotation_from_euler(angles: torch.Tensor) -> torch.Tensor:
    """(B, 3) yaw, pitch, roll, radians -> (B, 3, 3), as :func:`backend.geometry.rotation.rotation_from_head_euler`."""
    (y, x, z), one = angles.unbind(dim=1), torch.ones(len(angles), dtype=angles.dtype, device=angles.device)
    x, z, zero = -x, -z, torch.zeros_like(one)

    def matrix(*rows: torch.Tensor) -> torch.Tensor:
        return torch.stack(rows, dim=1).reshape(-1, 3, 3)

    about_y = matrix(y.cos(), zero, y.sin(), zero, one, zero, -y.sin(), zero, y.cos())
    about_x = matrix(one, zero, zero, zero, x.cos(), -x.sin(), zero, x.sin(), x.cos())
    about_z = matrix(z.cos(), -z.sin(), zero, z.sin(), z.cos(), zero, zero, zero, one)
    return torch.as_tensor(FRONTAL, dtype=angles.dtype, device=angles.device) @ about_y @ about_x @ about_z


def trained(candidate: Candidate, config: Config, steps: int) -> dict[str, float]:
    """Train one candidate and measure its averaged weights; see the FIGURES of ``validation.py``."""
    config = replace(config, run=replace(config.run, steps=steps))
    head = chosen_head(config.data.model, torch.device("cpu"))
    size = SIZES[config.network.size]
    network = build(candidate, size, head.layout.outputs)
    average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimiser = make_optimiser(network, config.optimiser)
    source = training_source(config.data, head, size.side)
    half = config.optimiser.precision == "bfloat16"

    def look(photos: torch.Tensor) -> Predicted:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            numbers = network(photos)
        return decoded(numbers, head.layout, candidate.euler)

    network.train()
    for step in range(steps):
        batch = source.batch(step, config.optimiser.batch)
        loss = total(terms(look(batch.photos.flatten(0, 1)), batch, head, config.losses), config.losses)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.optimiser.clip)
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, config.run, config.optimiser)
        optimiser.step()
        follow(average, network.state_dict(), step + 1, config.optimiser.average)
        tell(candidate, step + 1, steps)
    network.load_state_dict(average)
    network.eval()
    return validate(look, held_out(config, head), head, config.losses)


def fused(network: Backbone) -> Backbone:
    """Itself, frozen, with every normalisation inside its convolution."""
    network.for_inference()
    for module in network.modules():
        if isinstance(module, Inverted):
            module.fuse()
    return network


@torch.no_grad()
def milliseconds(candidate: Candidate, size: Size, outputs: int) -> dict[str, float]:
    """Of one face on one core, by :data:`TIMED_BATCHES`, and millions of weights."""
    network = fused(build(candidate, size, outputs))
    result = {"weights": sum(parameter.numel() for parameter in network.parameters()) / 1e6}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for batch in TIMED_BATCHES:
        crops = torch.randint(0, 256, (batch, size.side, size.side, 3), dtype=torch.uint8)
        times = []
        for _ in range(TIMED):
            began = time.perf_counter()
            network(crops)
            times.append(time.perf_counter() - began)
        result[f"ms_{batch}"] = 1e3 * median(times) / batch
    torch.set_num_threads(threads)
    return result


def page(found: dict[str, dict[str, float]], config: Config, steps: int) -> str:
    """The table, in Markdown."""
    head = ["network", "million weights", "ms, one face", "ms, of eight"]
    head += ["shape, mm", "landmarks, %", "rotation, degrees", "beyond 60", "depth, mm", "expression", "all losses"]
    rows = []
    for candidate in CANDIDATES:
        if candidate.name in found:
            f = found[candidate.name]
            cells = [f"{f['weights']:.1f}", f"{f['ms_1']:.1f}", f"{f['ms_8']:.1f}"]
            # Few people to measure on may have nobody in a bin of yaw.
            said = [f"{f[name]:.{3 if name == 'expression' else 2}f}" if name in f else "none" for name in SHOWN]
            rows.append([candidate.title, *cells, *said])
    words = (
        f"Widths of `{config.network.size}`, {steps} steps of {config.optimiser.batch} triplets, "
        f"{config.data.validation} triplets of people whom none has seen; times on one core ({platform.machine()})."
    )
    return f"{words}\n\n{table(head, rows)}\n"


def tell(candidate: Candidate, step: int, steps: int) -> None:
    sys.stdout.write(f"\r{candidate.title}: step {step} of {steps}" + ("\n" if step == steps else ""))
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--only", action="append", choices=[each.name for each in CANDIDATES], default=[])
    parser.add_argument("--time-again", action="store_true", help="measure the times of all anew, and train nothing")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    config = read_config(options.config)
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / "networks.json"
    asked = {"config": config.as_dict(), "steps": options.steps}
    kept = json.loads(store.read_text("utf-8")) if store.exists() else {**asked, "found": {}}
    if {name: kept[name] for name in asked} != asked:
        sys.exit(f"{store} is of another configuration or number of steps; name another folder with --out.")
    found: dict[str, dict[str, float]] = kept["found"]
    outputs = chosen_head(config.data.model, torch.device("cpu")).layout.outputs
    for candidate in CANDIDATES:
        if options.time_again and candidate.name in found:
            found[candidate.name] |= milliseconds(candidate, SIZES[config.network.size], outputs)
        if options.time_again or candidate.name in found or (options.only and candidate.name not in options.only):
            continue
        figures = trained(candidate, config, options.steps)
        found[candidate.name] = figures | milliseconds(candidate, SIZES[config.network.size], outputs)
        write_atomically(store, json.dumps({**asked, "found": found}, indent=1).encode())
    write_atomically(store, json.dumps({**asked, "found": found}, indent=1).encode())
    sys.stdout.write(page(found, config, options.steps))


if __name__ == "__main__":
    main()
