"""Which network looks at a photo: the weights that come with the project, or the user's.

Imports nothing heavy, so that a server may ask without PyTorch; :func:`make_encoder` loads what it needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import WeightsError

if TYPE_CHECKING:
    from backend.face_model.model import FaceModel
    from backend.network.interface import Encoder

DATA = Path(__file__).parent / "data"

# Whether photos go through the network when nobody says so and the weights are here. It must make the fit better
# on held-out heads (`mgcface evaluate --sets held-out`, docs/benchmarks/mgcnet.md): turned or covered faces by
# 15 % and frontal ones not worse by more than 2 %. No weights that come with the project have shown that yet.
REGRESS_BY_DEFAULT = False


def default_weights(model_name: str) -> Path | None:
    """The weights that come with the project for a face model; None where there are none."""
    path = DATA / f"encoder_{model_name}.safetensors"
    return path if path.is_file() else None


def regress_by_default(model_name: str) -> bool:
    """Whether the pipeline uses the network for this face model without being told to."""
    return REGRESS_BY_DEFAULT and default_weights(model_name) is not None


def chosen_weights(weights: str | Path | None, model_name: str) -> Path:
    """The user's file, or else what comes with the project; :class:`WeightsError` where there is neither."""
    chosen = Path(weights) if weights is not None else default_weights(model_name)
    if chosen is None:
        raise WeightsError(
            f"No network weights for the face model {model_name} come with this version; name a file with --weights "
            "or leave out the stage regress."
        )
    return chosen


def make_encoder(weights: str | Path | None, model: FaceModel, device: str = "cpu") -> Encoder:
    """The network of a weights file, ours or the published one: the file says which.

    Parameters
    ----------
    weights : path or None
        None takes what comes with the project.
    model : FaceModel
        Whose coefficients the network must speak.
    device : str
        A device of PyTorch.

    Raises
    ------
    WeightsError
        There are none, or the file is damaged or of another kind.
    ModelError
        They belong to another face model.
    """
    from backend.network.compat import PublishedEncoder
    from backend.network.encoder import FaceEncoder
    from backend.network.published import ARCHITECTURE
    from backend.network.weights_file import read_info

    path = chosen_weights(weights, model.info.name)
    if read_info(path).architecture == ARCHITECTURE:
        return PublishedEncoder(path, model, device)
    return FaceEncoder(path, model, device)
