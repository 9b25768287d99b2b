"""The convolutions of our own encoder: a plain residual network with normalisation, small enough for two CPU cores.

Dense 3x3 convolutions, two to a unit (He et al. 2016, "Deep Residual Learning", the unit of ResNet-18). Networks
that save multiplications by separable convolutions gain little from it here. On one core, 224 pixels, not trained,
one face and eight at a time, milliseconds a face:

    this one, widths of ``small``      14    9
    MobileNetV3-large                   8   14
    ConvNeXt-atto                      20   22
    EfficientNetV2-like, ReLU to SiLU  21 to 41    21 to 36

Dense convolutions are also what tensor cores are made for. Which of them learns most in the same steps is in
docs/benchmarks/mgcnet.md (``trainer/compare_networks.py``): inverted residuals a little more, ConvNeXt blocks less.

The mean over the last map, from which such networks usually answer, forgets where things are; poses and landmarks
need that. So the last map, narrowed, is read place by place beside its mean.

Symbols: B batch, C channels, S side of a crop, H, W size of a map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Crops come as sRGB from 0 to 255; these bring them to about zero mean and unit spread.
PIXEL_MEAN, PIXEL_SPREAD = 127.5, 64.0

# What the stem and the stages divide the side by.
STRIDE = 32


@dataclass(frozen=True)
class Size:
    """How large a network is.

    Attributes
    ----------
    side : int
        S, pixels; a multiple of 32.
    widths : tuple of int
        Channels of the four stages.
    units : tuple of int
        Residual units of each stage.
    places : int
        Channels to which the last map is narrowed before it is read place by place.
    hidden : int
        Width of the layer before the outputs.
    """

    side: int
    widths: tuple[int, int, int, int]
    units: tuple[int, int, int, int]
    places: int
    hidden: int


# ``small`` is for training on a GPU, ``compact`` for what two CPU cores can train in an hour; ``tiny`` learns in a
# minute on a CPU that training works.
SIZES = {
    "small": Size(192, (40, 80, 160, 320), (2, 2, 2, 2), 32, 512),
    "compact": Size(96, (32, 64, 128, 192), (2, 2, 2, 2), 48, 512),
    "tiny": Size(64, (16, 32, 48, 64), (1, 1, 1, 1), 32, 128),
}


class Normalised(nn.Module):
    """A convolution and its batch normalisation; :meth:`fuse` makes one convolution of both, for inference."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))

    def fuse(self) -> None:
        assert isinstance(self.norm, nn.BatchNorm2d)
        self.conv = fuse_conv_bn_eval(self.conv, self.norm)
        self.norm = nn.Identity()


class Unit(nn.Module):
    """``relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))``."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = Normalised(inputs, outputs, 3, stride)
        self.second = Normalised(outputs, outputs, 3)
        self.shortcut = Normalised(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        return torch.relu(self.shortcut(x) + self.second(torch.relu(self.first(x))))


class Backbone(nn.Module):
    """Crops to numbers.

    Parameters
    ----------
    size : Size
    outputs : int
        How many numbers come out.
    """

    def __init__(self, size: Size, outputs: int) -> None:
        super().__init__()
        if size.side % STRIDE:
            raise ValueError(f"the side must be a multiple of {STRIDE}, not {size.side}")
        self.size = size
        self.stem = Normalised(3, size.widths[0], 5, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages, inputs = [], size.widths[0]
        for stage, (width, units) in enumerate(zip(size.widths, size.units)):
            for unit in range(units):
                stages.append(Unit(inputs, width, 2 if stage and not unit else 1))
                inputs = width
        self.stages = nn.Sequential(*stages)
        self.narrow = Normalised(inputs, size.places, 1)
        places = size.places * (size.side // STRIDE) ** 2
        self.gather = nn.Linear(inputs + places, size.hidden)
        self.answer = nn.Linear(size.hidden, outputs)
        # An untrained network says about zero: the mean face in the middle of the crop.
        nn.init.normal_(self.answer.weight, std=0.01)
        nn.init.zeros_(self.answer.bias)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """What the network says of crops.

        Parameters
        ----------
        crops : (B, S, S, 3) uint8
            sRGB.

        Returns
        -------
        (B, outputs) float
            :mod:`backend.network.outputs` says which number is what.
        """
        # Seen as (B, C, H, W), this is what PyTorch calls channels-last.
        x = ((crops.float() - PIXEL_MEAN) / PIXEL_SPREAD).permute(0, 3, 1, 2)
        x = self.stages(self.pool(torch.relu(self.stem(x))))
        where = torch.relu(self.narrow(x)).flatten(1)
        return self.answer(torch.relu(self.gather(torch.cat([x.mean(dim=(2, 3)), where], dim=1))))

    def for_inference(self) -> Backbone:
        """Itself, frozen, with every normalisation inside its convolution."""
        self.eval().requires_grad_(False)
        for module in list(self.modules()):
            if isinstance(module, Normalised):
                module.fuse()
        # PyTorch's types do not know the argument.
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
