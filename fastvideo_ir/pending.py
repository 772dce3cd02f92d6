"""Results that are on their way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Pending:
    """A transfer under way.

    Attributes:
        result: where it arrives; not to be read before :attr:`finish` has returned.
        finish: makes sure that whatever reads the result from now on finds it.
        kept: what is sent, which must not be freed before.
    """

    result: Tensor
    finish: Callable[[], None]
    kept: Tensor

    def wait(self) -> Tensor:
        self.finish()
        return self.result
