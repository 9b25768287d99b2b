"""MGCNet's encoder as it was published (Shang et al., ECCV 2020): a ResNet-50 without normalisation.

It is ``resnet_v1_50`` of TensorFlow's slim, called without the argument scope that would have given it batch
normalisation: every layer is a convolution with a bias, and most are followed by a ReLU. Other places where
it is not the ResNet-50 of torchvision:

- the pooling of the stem has no padding, so that 112 becomes 55 and not 56;
- the stride of a block sits in its last unit and not in its first, on the 3x3 convolution; the identity
  beside it is sampled at every second place;
- the last block has no stride.

TensorFlow pads a strided convolution by hand, evenly, so PyTorch's padding is the same here.

Symbols: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

ARCHITECTURE = "mgcnet-published"

# Side of the crops in pixels, and the numbers that come out.
SIDE = 224
OUTPUTS = 257

# Units and base width of each block; the outputs of a block are wider by the factor.
BLOCKS = ((3, 64), (4, 128), (6, 256), (3, 512))
WIDENING = 4
STEM = 64

# Scope of the encoder in the checkpoint.
PREFIX = "resnet_v1_50/"


class Bottleneck(nn.Module):
    """One residual unit: ``relu(shortcut(x) + conv3(relu(conv2(relu(conv1(x))))))``."""

    def __init__(self, inputs: int, base: int, stride: int, project: bool) -> None:
        super().__init__()
        outputs = WIDENING * base
        self.conv1 = nn.Conv2d(inputs, base, 1)
        self.conv2 = nn.Conv2d(base, base, 3, stride=stride, padding=1)
        self.conv3 = nn.Conv2d(base, outputs, 1)
        self.downsample = nn.Conv2d(inputs, outputs, 1) if project else None
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, 4 base, H', W')."""
        deep = functional.relu(self.conv1(x))
        deep = self.conv3(functional.relu(self.conv2(deep)))
        if self.downsample is not None:
            x = self.downsample(x)
        return functional.relu(deep + x[:, :, :: self.stride, :: self.stride])


class PublishedResNet(nn.Module):
    """The encoder: 108 tensors, 24,008,065 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 7, stride=2, padding=3)
        inputs = STEM
        for number, (units, base) in enumerate(BLOCKS, 1):
            block = nn.Sequential()
            for unit in range(units):
                last = unit == units - 1 and number < len(BLOCKS)
                block.append(Bottleneck(inputs, base, 2 if last else 1, project=unit == 0))
                inputs = WIDENING * base
            self.add_module(f"layer{number}", block)
        self.fc = nn.Linear(inputs, OUTPUTS)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """What the network says of crops.

        Parameters
        ----------
        crops : (B, 3, 224, 224) float32
            RGB in [0, 1], neither centred nor scaled.

        Returns
        -------
        (B, 257) float32
            :func:`backend.network.compat.decode` says which number is what.
        """
        x = functional.max_pool2d(functional.relu(self.conv1(crops)), 3, stride=2)
        for number in range(1, len(BLOCKS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(x.mean(dim=(2, 3)))


def state_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the network's tensors here."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in PublishedResNet().state_dict().items()}


def checkpoint_names() -> dict[str, str]:
    """For each tensor here its name in the published checkpoint."""
    names = {}
    for name in state_shapes():
        layer, kind = name.rsplit(".", 1)
        layer = {"fc": "logits"}.get(layer, layer)
        if layer.startswith("layer"):
            block, unit, convolution = layer.removeprefix("layer").split(".")
            convolution = {"downsample": "shortcut"}.get(convolution, convolution)
            layer = f"block{block}/unit_{int(unit) + 1}/bottleneck_v1/{convolution}"
        names[name] = f"{PREFIX}{layer}/{'weights' if kind == 'weight' else 'biases'}"
    return names


def build(tensors: dict[str, torch.Tensor]) -> PublishedResNet:
    """The network with these weights, for inference; the tensors become its own and are not copied."""
    with torch.device("meta"):
        network = PublishedResNet()
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)
