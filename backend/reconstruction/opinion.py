"""What a network says of a face, as far as the network trusts itself and no further.

A network answers with a mean and the standard deviation of its error. Part of that answer it knew before it saw the
face: one that cannot tell says what is usual, with the usual spread. What it *measured* is the rest, in information
form (precision, and precision times value):

    precision = 1 / sigma^2 - 1 / usual_sigma^2,    pull = mean / sigma^2 - usual_mean / usual_sigma^2,

nothing where sigma is not below the usual spread. ``opinion_terms.py`` adds that to what the fit knows otherwise.

Symbols: I identity modes, E expressions, N values of one kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.errors import WeightsError
from backend.geometry.camera import Camera
from backend.geometry.rotation import head_euler_degrees, matrix_from_rotation_vector
from backend.network.interface import FaceCrop, Regressed
from backend.vision.photo import Photo

# The fit takes its landmarks to err one by one, but those of one face err together: it is further off than its own
# Hessian says, by the square root of these (chi-squared for each degree of freedom, median over invented people of
# open-head, painted, half of them behind something, without EXIF; trainer/measure_fit.py). What the network
# measures is therefore counted as often. For rotations: by yaw, degrees, between which the logarithm is linear.
ROTATION_TOGETHER_YAW, ROTATION_TOGETHER = (15.0, 45.0, 75.0), (60.0, 100.0, 1000.0)
DISTANCE_TOGETHER, EXPRESSION_TOGETHER = 25.0, 6.0

# Where a regression from landmarks comes with the model, a network is asked about heads that landmarks show turned
# so far, degrees of yaw, and heard of those that it sees turned so far itself: nearer to the front landmarks know
# better. On invented people of trainer/measure_fit.py (numbers 300 to 439) that leaves the front as it is and halves
# the rotation's error beyond 60 degrees, as hearing it always does. Landmarks show less yaw than there is, 50 for 75.
ASKED_YAW, HEARD_YAW = 25.0, 40.0

# A rotation whose error is as large as this, radians, is as good as none: the spread of the heads in photos.
USUAL_ROTATION = 0.6


@dataclass(frozen=True)
class Opinion:
    """What a network says of one face of a photo.

    Attributes
    ----------
    camera : Camera
        Of the photo, principal point in the middle of the crop: every vertex is where the network sees it.
    R : (3, 3) float64
        The rotation in a camera whose principal point is the photo's middle, as the fit has it.
    identity : (I,) float64
    expression : (E,) float64
    sigma : dict of str to (N,) float64
        Standard deviation of the errors, as in :class:`backend.network.interface.Regressed`.
    usual : dict of str to (mean, standard deviation)
        As there.
    """

    camera: Camera
    R: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    sigma: dict[str, np.ndarray]
    usual: dict[str, tuple[np.ndarray, np.ndarray]]

    @property
    def sigma_identity(self) -> np.ndarray:
        """(I,) float32, at most 1, which is also for a network that does not say."""
        sigma = self.sigma.get("identity", np.ones(1))
        return np.minimum(np.broadcast_to(sigma, self.identity.shape), 1.0).astype(np.float32)

    def information(self, name: str, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Precision and pull, shaped like ``mean``, of what was measured; zeros for what was not."""
        if name not in self.sigma or name not in self.usual:
            return np.zeros_like(mean), np.zeros_like(mean)
        sigma = np.broadcast_to(self.sigma[name], mean.shape)
        usual_mean, usual_sigma = (np.broadcast_to(values, mean.shape) for values in self.usual[name])
        precision = sigma**-2.0 - usual_sigma**-2.0
        pull = mean * sigma**-2.0 - usual_mean * usual_sigma**-2.0
        measured = precision > 0
        return np.where(measured, precision, 0.0), np.where(measured, pull, 0.0)

    @property
    def log_distance(self) -> tuple[float, float]:
        """Precision and pull of the logarithm of the distance to the head's origin, metres."""
        away = float(self.camera.t[2])
        if "translation" not in self.sigma or "log_distance" not in self.usual or away <= 0:
            return 0.0, 0.0
        sigma = float(np.broadcast_to(self.sigma["translation"], (3,))[2]) / away
        usual_mean, usual_sigma = (float(values[0]) for values in self.usual["log_distance"])
        precision = sigma**-2.0 - usual_sigma**-2.0
        if precision <= 0:
            return 0.0, 0.0
        return precision, float(np.log(away)) * sigma**-2.0 - usual_mean * usual_sigma**-2.0

    @property
    def yaw(self) -> float:
        """How far the network sees the head turned to a side, degrees, 0 or more."""
        return abs(head_euler_degrees(self.R)["yaw"])

    @property
    def rotation_precision(self) -> float:
        if "rotation" not in self.sigma:
            return 0.0
        return max(float(np.mean(self.sigma["rotation"])) ** -2.0 - USUAL_ROTATION**-2.0, 0.0)

    @property
    def rotation_weight(self) -> float:
        """How often the rotation counts beside landmarks that err together."""
        return float(np.exp(np.interp(self.yaw, ROTATION_TOGETHER_YAW, np.log(ROTATION_TOGETHER))))


def opinion(said: Regressed, index: int, crop: FaceCrop, photo: Photo) -> Opinion:
    """What was said of one crop, of the photo that it was cut from.

    Raises :class:`WeightsError` when the answer holds what is no number.
    """
    camera = said.photo_camera(index, crop.window, photo)
    parts = (camera.R, camera.t, camera.K, said.identity[index], said.expression[index])
    if not all(np.isfinite(part).all() for part in parts) or camera.t[2] <= 0:
        raise WeightsError("The network's answer makes no sense; take other weights or leave out the stage regress.")
    return Opinion(
        camera=camera,
        R=to_middle(camera, photo.focal_px) @ camera.R,
        identity=said.identity[index].astype(np.float64),
        expression=said.expression[index].astype(np.float64),
        sigma={name: values[index].astype(np.float64) for name, values in said.sigma.items()},
        usual=dict(said.usual),
    )


def to_middle(camera: Camera, focal_px: float | None = None) -> np.ndarray:
    """(3, 3) the turn from a camera that looks at a crop's middle to one that looks at the photo's.

    A network sees a crop as if its middle were straight ahead. In the photo's camera that middle lies along a ray
    beside the axis, and the head is turned with it.
    """
    focal = camera.focal_px if focal_px is None else focal_px
    ray = np.array([camera.K[0, 2] - camera.width / 2.0, camera.K[1, 2] - camera.height / 2.0, focal])
    axis = np.cross([0.0, 0.0, 1.0], ray)
    across = float(np.linalg.norm(axis))
    if across < 1e-9 * focal:
        return np.eye(3)
    return matrix_from_rotation_vector(axis / across * np.arctan2(across, focal))
