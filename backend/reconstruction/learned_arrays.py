"""What was learned and comes with the project: a few named arrays in one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from backend.errors import ModelError

Kind = TypeVar("Kind", bound="LearnedArrays")


@dataclass(frozen=True)
class LearnedArrays:
    """Base of a dataclass whose fields are all float32 arrays."""

    # The command that makes the file again, for the sentence about one that is broken.
    made_by: ClassVar[str]

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        """Write one safetensors file."""
        tensors = {f.name: np.ascontiguousarray(getattr(self, f.name), np.float32) for f in fields(self)}
        save_file(tensors, path, metadata=metadata)

    @classmethod
    def load(cls: type[Kind], path: Path) -> Kind:
        """Read what :meth:`save` wrote; raises :class:`ModelError` when it is not that."""
        try:
            tensors = load_file(path)
            return cls(**{f.name: tensors[f.name] for f in fields(cls)})
        except (OSError, KeyError, SafetensorError) as error:
            raise ModelError(
                f"The file {path.name} cannot be read; reinstall mgcface or make it again with `{cls.made_by}`."
            ) from error
