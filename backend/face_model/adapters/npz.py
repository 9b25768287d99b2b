"""Opening other people's .npz files without trusting them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from backend.errors import ModelError

# The first bytes of Python pickles, protocols 2 to 5.
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@contextmanager
def open_npz(path: Path, wanted: str) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an .npz file, read when asked for; a file of another kind raises one sentence.

    ``wanted`` says what the file should have been, for the message.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); name {wanted}.") from error
    if start.startswith(PICKLE_STARTS) or path.suffix == ".pkl":
        raise ModelError(
            f"{path} is a Python pickle, which can run code when it is opened; convert it to .npz as "
            "docs/face-models.md shows and install that."
        )
    if not start.startswith(b"PK"):
        raise ModelError(f"{path} is not an .npz file; name {wanted}.")
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is cut off or damaged; download it again.") from error
    with archive:
        yield archive


def take(
    arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...], path: Path, optional: bool = False
) -> np.ndarray:
    """One array of the right shape (``None`` stands for any size); an optional one that is missing is empty."""
    if name not in arrays:
        if optional:
            return np.zeros([size or 0 for size in shape])
        raise ModelError(f'{path} has no array "{name}"; it is another kind of file or another version.')
    try:
        array = arrays[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        reason = "holds Python objects" if "pickle" in str(error).lower() else "is damaged"
        raise ModelError(f'The array "{name}" of {path} {reason}; convert or download the file again.') from error
    matches = array.ndim == len(shape) and all(want is None or want == got for want, got in zip(shape, array.shape))
    if not matches:
        wanted = " x ".join("any" if size is None else str(size) for size in shape)
        found = " x ".join(map(str, array.shape)) or "single number"
        raise ModelError(
            f'The array "{name}" of {path} is {found} where {wanted} is needed; it is another kind of model.'
        )
    return array
