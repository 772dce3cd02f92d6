"""Stages that work on several generations at once."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Hashable, Sequence

import torch

import fastvideo_ir as ir

from .stage import Stage
from .state import GenerationState

_LOG = logging.getLogger(__name__)
_TOO_MUCH = (ir.errors.DeviceMemoryError, ir.errors.WorkerError, torch.OutOfMemoryError)
"""What a batch may fail with although each of its samples could be served: a rank without memory is a lost one."""


class JointStage(Stage):
    """A stage whose calls of compiled programs are a batch of several generations, which ranks may divide.

    Those that are alike are worked on together; with no others a generation is on its own.
    """

    @abstractmethod
    def run_joint(self, states: Sequence[GenerationState]) -> None:
        """Do the work for generations that are alike. What fails for one of them is kept in its state."""

    @abstractmethod
    def kind(self, state: GenerationState) -> Hashable:
        """What generations have in common that can be worked on together."""

    def run(self, state: GenerationState) -> None:
        self.run_joint([state])
        if state.error is not None:
            raise state.error

    def together(self, name: str, states: Sequence[GenerationState]) -> None:
        kinds: dict[Hashable, list[GenerationState]] = {}
        for state in states:
            with state.keeping_error():
                self.verify_input(state)
                kinds.setdefault(self.kind(state), []).append(state)
        for alike in kinds.values():
            self._joint(name, alike)

    def _joint(self, name: str, states: Sequence[GenerationState]) -> None:
        """Run for those that are alike; in halves if that fails at once for want of memory."""
        if len(states) == 1:
            super().together(name, states)
            return
        steps = self.steps(states[0])
        states[0].progress.stage(f"{name} × {len(states)}", steps or 1)
        start = time.perf_counter()
        try:
            self.run_joint(states)
        except ir.errors.GenerationCancelledError:
            raise
        except Exception as error:
            if isinstance(error, _TOO_MUCH) and not any(state.step_seconds for state in states):
                half = (len(states) + 1) // 2
                _LOG.warning("%d videos at a time failed, going on with %d: %s", len(states), half, error)
                self._joint(name, states[:half])
                self._joint(name, states[half:])
                return
            for state in states:
                state.error = state.error or error
        self.synchronize()
        seconds = time.perf_counter() - start
        if steps is None:
            states[0].progress.step(seconds)
        for state in states:
            state.seconds[name] = seconds
            if state.error is None:
                with state.keeping_error():
                    self.verify_output(state)
