"""Identity loss: the render must be recognised as the person in the photo.

Shang et al. 2020, section on the 2D feature loss, after Genova et al. 2018: one minus the cosine between
face-recognition features of the render and of the photo,

    L_id = 1 - <f(render), f(photo)> / (|f(render)| |f(photo)|).

The network f, its input size and the alignment of faces are the caller's; the photo's features
take no gradient, since they are what the render is compared with.

Differences from the published code: none in the formula. There, the features were FaceNet's (512
numbers, for inputs of 224 pixels although it was trained on 160), and no gradient reached the alignment.

Symbols: B batch, D numbers in a feature.
"""

from __future__ import annotations

import torch


def identity_loss(features_render: torch.Tensor, features_photo: torch.Tensor) -> torch.Tensor:
    """(B, D) features of renders and of photos -> (B,) from 0 (the same direction) to 2 (opposite)."""
    return 1.0 - torch.nn.functional.cosine_similarity(features_render, features_photo.detach(), dim=1, eps=1e-10)
