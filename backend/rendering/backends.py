"""Which rasterizers can run here, and which one ``auto`` means."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from backend.errors import DependencyError

BACKENDS = ("cuda", "cpu", "torch", "nvdiffrast")


def available_backends() -> dict[str, str | None]:
    """For each backend None when it can run, otherwise one sentence that says why it cannot."""
    return {name: missing_reason(name) for name in BACKENDS}


def missing_reason(name: str) -> str | None:
    """None when the backend can run, otherwise one sentence for the user."""
    if name == "torch":
        return None
    if name == "cpu":
        return None if find_spec("numba") else "Numba is not installed; install it with: pip install numba."
    if name not in BACKENDS:
        raise ValueError(f"unknown rasterizer backend {name!r}; there are {', '.join(BACKENDS)}")
    if not torch.cuda.is_available():
        return f"The {name} rasterizer needs an NVIDIA GPU and a CUDA build of PyTorch, and none is visible."
    package = "triton" if name == "cuda" else "nvdiffrast"
    if find_spec(package) is None:
        return f"The {name} rasterizer needs the package {package}; install it or choose --device cpu."
    return None


def resolve(name: str, device: torch.device | str) -> str:
    """The backend to use for tensors on ``device``: ``auto`` is decided, the rest is checked.

    ``auto`` takes ``cuda`` for GPU tensors when it can run, ``cpu`` for tensors in main memory, and
    ``torch`` where neither can.
    """
    device = torch.device(device)
    if name == "auto":
        wanted = {"cuda": "cuda", "cpu": "cpu", "mps": "cpu"}.get(device.type, "torch")
        return wanted if missing_reason(wanted) is None else "torch"
    reason = missing_reason(name)
    if reason is not None:
        raise DependencyError(reason)
    if name in ("cuda", "nvdiffrast") and device.type != "cuda":
        raise ValueError(f"the {name} rasterizer wants tensors on the GPU, not on {device.type}")
    return name
