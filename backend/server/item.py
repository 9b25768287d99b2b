"""What the worker computes, a photo at a time, and where it says what happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass
class Item:
    """One photo of a batch: ``source`` is a path or the bytes of a file."""

    client: str
    job: str
    index: int
    name: str
    source: str | memoryview
    ended: bool = field(default=False)


class Report(Protocol):
    """Where the engine says what happens."""

    def progress(self, item: Item, stage: str, fraction: float) -> None: ...
    def face(self, item: Item, body: dict[str, Any], arrays: dict[str, np.ndarray]) -> None: ...
    def photo_failed(self, item: Item, code: str, message: str) -> None: ...
    def photo_done(self, item: Item, faces: int, timings_ms: dict[str, float]) -> None: ...
    def refused(self, code: str, message: str) -> None: ...
    def note(self, text: str) -> None: ...
    def stopped(self) -> bool: ...
