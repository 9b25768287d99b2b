"""What the numbers of our encoder mean.

The numbers come in groups, each multiplied by a scale so that the network always speaks in numbers of about unit
size, and added to a typical value: zero is the mean face at rest, looking into the camera from the middle of the
crop, at arm's length, in even light.

- Identity, albedo: standard deviations. Expression: through a sigmoid where coefficients live in [0, 1].
- Rotation: six numbers, the first two columns of R before they are made orthonormal (Zhou et al. 2019, "On the
  Continuity of Rotation Representations in Neural Networks"): no angle jumps, not even in profile.
- Place: where a reference point of the face is in the crop, and the logarithm of how large it is. Focal length: its
  logarithm. Distance follows from the two: what a crop shows of them separately is only perspective, so errors of
  the focal length do not spoil where things are.
- For each group the logarithm of the variance of its own error, see :data:`GROUPS`.

Everything here is PyTorch and differentiable; the trainer learns through it.

Symbols: B batch, I identity modes, E expressions, A albedo modes, P points.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from backend.errors import WeightsError
from backend.face_model.model import FaceModel
from backend.rendering.shade import AMBIENT, BASIS_SIZE

LIGHT, ROTATION, PLACE, FOCAL = 3 * BASIS_SIZE, 6, 3, 1

# Spread of each group over faces in crops, in the group's unit.
SCALES = {
    "identity": 1.0,
    "expression": 1.0,
    "albedo": 1.0,
    "light": 0.3,
    "rotation": 0.6,
    "place": 0.1,
    "log_focal": 0.7,
}
GROUPS = tuple(SCALES)

# What the sigmoid of expressions starts from: most shapes of most faces are nearly at rest, at 0.05.
EXPRESSION_AT_REST = -3.0

# Size of the head that a crop shows by default (one side is this many metres of the face) and the focal length,
# in sides, that belongs to a distance of 0.8 m.
METRES_IN_CROP = 0.2
TYPICAL_FOCAL = 0.8 / METRES_IN_CROP

# Predicted variances stay between these factors of the group's spread, squared.
LOG_VARIANCE_RANGE = (-14.0, 4.0)


@dataclass(frozen=True)
class Layout:
    """How many numbers each group has, for one face model.

    Attributes
    ----------
    identity, expression, albedo : int
        I, E, A; A is 0 for models without albedo.
    unit : bool
        Expression coefficients live in [0, 1].
    reference : tuple of float
        The point, model space, metres, that is placed in the crop: the middle of the inner landmarks of
        the mean face.
    """

    identity: int
    expression: int
    albedo: int
    unit: bool
    reference: tuple[float, float, float]

    @classmethod
    def of(cls, model: FaceModel) -> Layout:
        """The layout that fits a face model."""
        # Whole micrometres, so that the same model says the same after it was saved and read.
        x, y, z = (
            round(float(value), 6) + 0.0 for value in model.landmark_points(model.mean, "ibug68")[17:].mean(axis=0)
        )
        albedo = 0 if model.albedo_basis is None else len(model.albedo_basis)
        unit = model.expression_limits == "unit"
        return cls(len(model.identity), len(model.expression), albedo, unit, (x, y, z))

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers of each group; without a size of 0."""
        counts = (self.identity, self.expression, self.albedo, LIGHT, ROTATION, PLACE, FOCAL)
        return {name: count for name, count in zip(GROUPS, counts) if count}

    @property
    def outputs(self) -> int:
        """How many numbers the network gives, those of its own errors among them."""
        return sum(self.sizes.values()) + len(self.sizes)

    def as_metadata(self) -> dict:
        return asdict(self)

    @classmethod
    def from_metadata(cls, stored: object) -> Layout:
        """What :meth:`as_metadata` gave, read back from a file."""
        try:
            assert isinstance(stored, dict)
            x, y, z = (float(value) for value in stored["reference"])
            identity, expression, albedo = (int(stored[name]) for name in ("identity", "expression", "albedo"))
            return cls(identity, expression, albedo, bool(stored["unit"]), (x, y, z))
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                "The weights do not say which number means what; train them again or take another file."
            ) from error


@dataclass(frozen=True)
class Predicted:
    """What a network says of crops, or what is true of them.

    Attributes
    ----------
    identity : (B, I) float
    expression : (B, E) float
    albedo : (B, A) float
        A may be 0.
    light : (B, 3, 9) float
    R : (B, 3, 3) float
    place : (B, 3) float
        x and y of the reference point, in sides from the crop's middle, and the logarithm of its size over
        the typical one.
    log_focal : (B, 1) float
        Of the focal length over the typical one.
    log_variance : dict of str to (B,) float
        By group, of :data:`GROUPS`; empty for a truth.
    """

    identity: torch.Tensor
    expression: torch.Tensor
    albedo: torch.Tensor
    light: torch.Tensor
    R: torch.Tensor
    place: torch.Tensor
    log_focal: torch.Tensor
    log_variance: dict[str, torch.Tensor]

    @property
    def focal(self) -> torch.Tensor:
        """(B,) focal length in sides of the crop."""
        return TYPICAL_FOCAL * self.log_focal[:, 0].exp()

    @property
    def distance(self) -> torch.Tensor:
        """(B,) metres from the camera to the plane of the reference point."""
        return self.focal * METRES_IN_CROP * (-self.place[:, 2]).exp()

    def t(self, layout: Layout) -> torch.Tensor:
        """(B, 3) translation from model to camera, metres."""
        away = self.distance[:, None]
        point = torch.cat([self.place[:, :2] * away / self.focal[:, None], away], dim=1)
        return point - self.R @ self.R.new_tensor(layout.reference)

    def K(self, side: int) -> torch.Tensor:
        """(B, 3, 3) intrinsics in pixels of a crop of ``side``, principal point in its middle."""
        focal, zero = side * self.focal, torch.zeros_like(self.focal)
        middle, one = zero + side / 2.0, torch.ones_like(zero)
        return torch.stack([focal, zero, middle, zero, focal, middle, zero, zero, one], dim=1).reshape(-1, 3, 3)


def decode(numbers: torch.Tensor, layout: Layout) -> Predicted:
    """(B, outputs) as the network gives them -> what they mean. In the precision of ``numbers``, float32 at least."""
    numbers = numbers.float() if numbers.dtype in (torch.float16, torch.bfloat16) else numbers
    if numbers.dim() != 2 or numbers.shape[1] != layout.outputs:
        raise ValueError(f"the outputs must be B x {layout.outputs}, not {tuple(numbers.shape)}")
    parts = dict(zip(layout.sizes, numbers.split([*layout.sizes.values(), len(layout.sizes)], dim=1)))
    scaled = {name: SCALES[name] * part for name, part in parts.items()}
    expression = scaled["expression"]
    if layout.unit:
        expression = torch.sigmoid(expression + EXPRESSION_AT_REST)
    light = scaled["light"].reshape(-1, 3, BASIS_SIZE)
    light = torch.cat([light[..., :1] + AMBIENT, light[..., 1:]], dim=-1)
    spread = numbers[:, -len(layout.sizes) :].clamp(*LOG_VARIANCE_RANGE)
    return Predicted(
        identity=scaled["identity"],
        expression=expression,
        albedo=scaled["albedo"] if layout.albedo else numbers.new_zeros(len(numbers), 0),
        light=light,
        R=rotation_from_six(scaled["rotation"]),
        place=scaled["place"],
        log_focal=scaled["log_focal"],
        log_variance={
            name: spread[:, index] + 2.0 * torch.tensor(SCALES[name]).log().item()
            for index, name in enumerate(layout.sizes)
        },
    )


def rotation_from_six(six: torch.Tensor) -> torch.Tensor:
    """(B, 6) -> (B, 3, 3): zero looks straight into the camera; Gram and Schmidt make the columns orthonormal."""
    frontal = torch.tensor([1.0, 0.0, 0.0, 0.0, -1.0, 0.0]).to(six)
    first, second = (frontal + six).split(3, dim=1)
    x = torch.nn.functional.normalize(first, dim=1)
    y = torch.nn.functional.normalize(second - (x * second).sum(dim=1, keepdim=True) * x, dim=1)
    return torch.stack([x, y, torch.cross(x, y, dim=1)], dim=2)


def placed(R: torch.Tensor, t: torch.Tensor, focal: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """``place`` (B, 3) and ``log_focal`` (B, 1) of a camera: R (B, 3, 3), t (B, 3), focal (B,) in sides."""
    point = R @ R.new_tensor(layout.reference) + t
    away = point[:, 2]
    size = (focal * METRES_IN_CROP / away).log()
    return (
        torch.stack([focal * point[:, 0] / away, focal * point[:, 1] / away, size], dim=1),
        (focal / TYPICAL_FOCAL).log()[:, None],
    )


def sigmas(said: Predicted) -> dict[str, torch.Tensor]:
    """Standard deviations in the units of :data:`backend.network.interface.GROUPS`: (B, 1), translation (B, 3).

    A group's variance is the mean over its numbers. For the rotation these are angles about the camera's
    axes. A translation's error is that of the place, across and along the view, and of the focal length,
    along it; the two are taken to be independent.
    """
    deviation = {name: (0.5 * value).exp()[:, None] for name, value in said.log_variance.items()}
    place = deviation.pop("place")
    across = place * (said.distance / said.focal)[:, None]
    along = (place**2 + deviation["log_focal"] ** 2).sqrt() * said.distance[:, None]
    return {**deviation, "translation": torch.cat([across, across, along], dim=1)}
