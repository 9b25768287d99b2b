"""The published encoder: its tensors, and its answers against TensorFlow's and against a slow twin."""

from __future__ import annotations

import numpy as np
import pytest
import slow_resnet
import torch
from published_weights import PREFIX, invented_crops, invented_tensor, published_shapes
from torch.nn import functional

from backend.network.published import (
    ARCHITECTURE,
    SIDE,
    Bottleneck,
    PublishedResNet,
    build,
    checkpoint_names,
    state_shapes,
)
from backend.network.weights_file import load_weights

# What TensorFlow 2.15.1 says with slim's own `resnet_v1_50(x, num_classes=257)` (tf-slim 1.1.0, without argument
# scope) of the first two invented crops with the invented weights: every sixteenth of the 257 numbers.
TENSORFLOW_SAYS = np.array(
    [
        *[-0.4845788, 0.3646515, 3.2733107, -6.006605, 0.4401582, -0.6261955, -0.8725911, 0.4224828, 0.2686545],
        *[-0.7695874, -0.0961563, -2.3771145, -2.9742258, 3.3147192, -1.53986, 0.4835621, -2.0670478],
        *[-0.4844252, 0.2777366, 3.1473947, -5.9171367, 0.4328037, -0.6618513, -0.9116644, 0.4844257, 0.2175743],
        *[-0.7109649, -0.1042221, -2.3625286, -2.889693, 3.240696, -1.480522, 0.4687961, -1.9763157],
    ]
).reshape(2, 17)


@pytest.fixture(scope="module")
def network(converted) -> PublishedResNet:
    return build(load_weights(converted, ARCHITECTURE, state_shapes())[0])


def answer(network: torch.nn.Module, crops: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255.0).numpy()


def test_the_108_tensors() -> None:
    """Every tensor here has its twin of the published table, with the same shape in PyTorch's order."""
    published, names = published_shapes(), checkpoint_names()
    assert len(published) == 108 and sorted(names.values()) == sorted(published)
    for name, shape in state_shapes().items():
        stored = published[names[name]]
        expected = (stored[3], stored[2], *stored[:2]) if len(stored) == 4 else stored
        assert shape == (expected[:2] if name == "fc.weight" else expected), name
    assert sum(int(np.prod(shape)) for shape in published.values()) == 24_008_065
    assert names["layer3.5.conv2.weight"] == f"{PREFIX}block3/unit_6/bottleneck_v1/conv2/weights"
    assert names["layer1.0.downsample.bias"] == f"{PREFIX}block1/unit_1/bottleneck_v1/shortcut/biases"


def test_sizes_on_the_way(network: PublishedResNet) -> None:
    sizes = []
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
        for name in ("conv1", "layer1.1", "layer1", "layer2", "layer3", "layer4")
    ]
    answer(network, invented_crops(1))
    for hook in hooks:
        hook.remove()
    assert sizes == [(64, 112, 112), (256, 55, 55), (256, 28, 28), (512, 14, 14), (1024, 7, 7), (2048, 7, 7)]


def test_the_answer_is_tensorflows(network: PublishedResNet) -> None:
    said = answer(network, invented_crops(2))
    assert said.shape == (2, 257)
    np.testing.assert_allclose(said[:, ::16], TENSORFLOW_SAYS, atol=3e-5)


def test_the_answer_is_the_slow_twins(network: PublishedResNet, weights: dict[str, np.ndarray]) -> None:
    """All 257 numbers of one crop, in double precision there."""
    crops = invented_crops(1)
    np.testing.assert_allclose(answer(network, crops), slow_resnet.run(weights, crops / 255.0), atol=3e-5)


@pytest.mark.parametrize(("inputs", "stride", "project"), [(8, 1, True), (16, 1, False), (16, 2, False), (8, 2, True)])
@pytest.mark.parametrize("side", [7, 10])
def test_one_unit_against_its_slow_twin(inputs: int, stride: int, project: bool, side: int) -> None:
    unit = Bottleneck(inputs, 4, stride, project)
    shapes = {"conv1": (1, 1, inputs, 4), "conv2": (3, 3, 4, 4), "conv3": (1, 1, 4, 16), "shortcut": (1, 1, inputs, 16)}
    weights = {}
    for name, shape in shapes.items():
        layer = unit.downsample if name == "shortcut" else getattr(unit, name)
        if layer is None:
            continue
        kernel, bias = (invented_tensor(f"{name}{part}", size) for part, size in ((0, shape), (1, shape[3:])))
        weights |= {f"{PREFIX}u/{name}/weights": kernel, f"{PREFIX}u/{name}/biases": bias}
        layer.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        layer.bias.data = torch.from_numpy(bias)
    x = np.random.default_rng(side).normal(size=(2, side, side, inputs)).astype(np.float32)
    with torch.inference_mode():
        fast = unit(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    assert fast.shape == (2, -(-side // stride), -(-side // stride), 16)
    np.testing.assert_allclose(fast, slow_resnet.bottleneck(x, weights, "u", stride), atol=1e-5)


def test_a_padded_pooling_would_be_noticed(network: PublishedResNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparisons above see the difference to torchvision's stem by far."""
    crops = invented_crops(1)
    right = answer(network, crops)

    def padded(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
        return torch.max_pool2d(x, size, stride, padding=1)

    monkeypatch.setattr(functional, "max_pool2d", padded)
    assert np.abs(answer(network, crops) - right).max() > 1e-3


def test_it_learns() -> None:
    """As a module to train, gradients reach every tensor."""
    torch.manual_seed(0)
    network = PublishedResNet()
    network(torch.rand(1, 3, SIDE, SIDE)).square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in network.parameters())
