"""Where the time of a first call goes."""

from __future__ import annotations

import time


class Stopwatch:
    """Seconds by what they were spent on, in order."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, what: str, **parts: float) -> None:
        """Everything since the last lap was spent on ``what``, but for the seconds of ``parts``, by name."""
        now = time.perf_counter()
        self.laps[what] = self.laps.get(what, 0.0) + now - self._since - sum(parts.values())
        self.laps |= parts
        self._since = now

    @property
    def seconds(self) -> float:
        """In all."""
        return sum(self.laps.values())
