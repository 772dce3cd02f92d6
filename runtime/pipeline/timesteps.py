"""The noise levels of the denoising steps."""

from __future__ import annotations

from .stage import Stage
from .state import GenerationState


class TimestepsStage(Stage):
    """Asks the scheduler for its timesteps; they keep the dtype that the scheduler gives them."""

    provides = ("timesteps",)

    def run(self, state: GenerationState) -> None:
        scheduler = self.context.components["scheduler"].value
        scheduler.set_timesteps(state.request.num_inference_steps, device=self.context.device)
        scheduler.set_begin_index(0)  # spares a search, and a device synchronization, in every step
        state.timesteps = scheduler.timesteps
