"""The weights file of every network here: one safetensors file with JSON metadata, as face models have it.

The metadata is one JSON object under the key ``mgcface``: ``format_version``, ``kind`` (``network_weights``),
``architecture`` (which of our networks the tensors fit), ``face_model`` (whose coefficients come out) and
``info`` (name, version, licence, terms, attribution; see :class:`backend.face_model.model.ModelInfo`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from backend.errors import WeightsError
from backend.face_model.file_format import METADATA_KEY, SIGNATURES, write_atomically
from backend.face_model.model import ModelInfo

FORMAT_VERSION = 1
KIND = "network_weights"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says of itself.

    Attributes
    ----------
    architecture : str
        The network that the tensors fit.
    face_model : str
        Name of the face model that its coefficients belong to.
    info : ModelInfo
        Who made the weights and what one may do with them.
    """

    architecture: str
    face_model: str
    info: ModelInfo


def save_weights(path: str | Path, tensors: Mapping[str, np.ndarray], about: WeightsInfo) -> None:
    """Write weights; the file appears whole or not at all, and equal weights give equal bytes."""
    metadata = {"format_version": FORMAT_VERSION, "kind": KIND, **asdict(about)}
    content = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_atomically(Path(path), save(content, {METADATA_KEY: json.dumps(metadata, sort_keys=True)}))


def load_weights(path: str | Path, architecture: str, shapes: Shapes) -> tuple[dict[str, torch.Tensor], WeightsInfo]:
    """Read the weights of one architecture.

    Parameters
    ----------
    path : path
    architecture : str
        What the file must be for.
    shapes : mapping of str to tuple of int
        Every tensor that the network has.

    Returns
    -------
    tensors : dict of str to float32 tensor
        Exactly those of ``shapes``; smaller floating-point types in the file are widened.
    about : WeightsInfo

    Raises
    ------
    WeightsError
    """
    path = Path(path)
    with _open(path) as file:
        about = _parse(file.metadata(), path)
        if about.architecture != architecture:
            raise WeightsError(
                f"{path} holds weights of the network {about.architecture} and not of {architecture}; name another."
            )
        stored = set(file.keys())
        if stored != set(shapes):
            name = min(stored ^ set(shapes))
            what = "lacks" if name in shapes else "has an unknown"
            raise WeightsError(f'{path} {what} tensor "{name}"; convert or download it again.')
        try:
            tensors = {name: file.get_tensor(name) for name in shapes}
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} cannot be read ({error}); convert or download it again.") from error
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != tuple(shapes[name]) or not tensor.is_floating_point():
            found = " x ".join(map(str, tensor.shape))
            wanted = " x ".join(map(str, shapes[name]))
            raise WeightsError(
                f'The tensor "{name}" of {path} is {str(tensor.dtype).removeprefix("torch.")} of {found} where '
                f"float32 of {wanted} is needed; convert or download it again."
            )
        if not torch.isfinite(tensor).all():
            raise WeightsError(f'The tensor "{name}" of {path} holds NaN or infinity; convert or download it again.')
    return {name: tensor.float() for name, tensor in tensors.items()}, about


def read_info(path: str | Path) -> WeightsInfo:
    """What a weights file says of itself, without its tensors."""
    path = Path(path)
    with _open(path) as file:
        return _parse(file.metadata(), path)


def _open(path: Path) -> safe_open:
    start = b""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
        return safe_open(path, framework="pt")
    except OSError as error:
        raise WeightsError(f"The weights {path} cannot be read ({error.strerror}); check the path.") from error
    except SafetensorError as error:
        kind = next((kind for signature, kind in SIGNATURES if start.startswith(signature)), None)
        if kind:
            raise WeightsError(f"{path} is {kind} and not a weights file; name a .safetensors file.") from error
        raise WeightsError(
            f"{path} is not a weights file or is damaged ({error}); convert or download it again."
        ) from error


def _parse(metadata: dict[str, str] | None, path: Path) -> WeightsInfo:
    try:
        parsed = json.loads((metadata or {})[METADATA_KEY])
        if parsed["kind"] != KIND:
            raise KeyError(parsed["kind"])
        version = int(parsed["format_version"])
        if version <= FORMAT_VERSION:
            return WeightsInfo(parsed["architecture"], parsed["face_model"], ModelInfo(**parsed["info"]))
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} is a safetensors file of another kind and not a weights file of mgcface; name another file."
        ) from error
    raise WeightsError(
        f"The weights {path} have format {version} and this version reads up to {FORMAT_VERSION}; update mgcface."
    )
