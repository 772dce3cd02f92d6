"""What the training parts share: the device, the schedule, and checkpoints from which the next part goes on."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SAVED_EVERY = 120.0
"""Seconds."""


@dataclass
class Run:
    """One part of a training: so many steps in all, of which this part does what fits into its minutes.

    Attributes:
        folder: checkpoints and logs.
        name: of the checkpoint.
        steps: of the whole training.
        minutes: that this part may take.
        total_minutes: that the whole training may take; its schedule ends with them if they are over before the steps.
    """

    folder: Path
    name: str
    steps: int
    minutes: float
    total_minutes: float
    device: torch.device
    started: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    seconds_before: float = 0.0

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.pt"

    @property
    def seconds(self) -> float:
        """Training time so far, earlier parts included."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def out_of_time(self) -> bool:
        """Whether this part is over; at least one step of it is done."""
        return time.monotonic() - self.started > self.minutes * 60

    @property
    def save_is_due(self) -> bool:
        """Whether more would be lost now than one wants to do again."""
        return time.monotonic() - self.saved > SAVED_EVERY

    def progress(self, step: int) -> float:
        """Of the whole training, after so many steps; 1 when it is done."""
        return max(step / self.steps, self.seconds / (self.total_minutes * 60))

    def load(self) -> dict[str, Any] | None:
        """Where the last part stopped; None at the start."""
        if not self.file.exists():
            return None
        state: dict[str, Any] = torch.load(self.file, map_location=self.device, weights_only=True)
        self.seconds_before = state["seconds"]
        return state

    def save(self, **state: Any) -> None:
        """Write the checkpoint whole or not at all."""
        part = self.file.with_suffix(".part")
        torch.save({"seconds": self.seconds, **state}, part)
        part.replace(self.file)
        self.saved = time.monotonic()

    def steps_from(self, step: int, save: Callable[[int], None]) -> Iterator[int]:
        """Numbers of the steps that this part takes, from ``step`` on.

        ``save`` is called with the steps that are done, when a save is due and when the part is over.
        """
        while self.progress(step) < 1:
            yield step
            step += 1
            if self.out_of_time:
                break
            if self.save_is_due:
                save(step)
        save(step)
        print(f"{step} of {self.steps} steps, {self.seconds:.0f} s", flush=True)

    def log(self, step: int, text: str) -> None:
        """Say how a step went, behind its number."""
        print(f"step {step + 1}: {text}, {self.seconds:.0f} s", flush=True)

    def learning_rate(self, step: int, warmup: int = 100) -> float:
        """As a share of the largest: a warm-up, then half a cosine to zero."""
        return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(self.progress(step), 1)))


class Replayed:
    """Figures and gradients of a batch; on a GPU a graph that is replayed, one for each shape of batches, since
    thousands of small kernels take longer to launch than to run.

    The model's gradients are made once and written in place.

    Args:
        model: whose gradients are wanted.
        function: of a batch's tensors and of options; works out gradients by ``backward`` and returns figures.
    """

    def __init__(self, model: nn.Module, function: Callable[..., dict[str, Tensor]]) -> None:
        self._function = function
        self._gradients = []
        for parameter in filter(lambda one: one.requires_grad, model.parameters()):
            parameter.grad = torch.zeros_like(parameter)
            self._gradients.append(parameter.grad)
        self._graphs: dict[object, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], dict[str, Tensor]]] = {}

    def __call__(self, *batch: Tensor, **options: Any) -> dict[str, Tensor]:
        if not batch[0].is_cuda:
            return self._run(*batch, **options)
        key = (*(tensor.shape for tensor in batch), *sorted(options.items()))
        if key not in self._graphs:
            self._graphs[key] = self._record(batch, options)
        graph, held, figures = self._graphs[key]
        for place, tensor in zip(held, batch, strict=True):
            place.copy_(tensor)
        graph.replay()
        return figures

    def _run(self, *batch: Tensor, **options: Any) -> dict[str, Tensor]:
        torch._foreach_zero_(self._gradients)
        return self._function(*batch, **options)

    def _record(
        self, batch: tuple[Tensor, ...], options: dict[str, Any]
    ) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], dict[str, Tensor]]:
        held = tuple(tensor.clone() for tensor in batch)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._run(*held, **options)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            figures = self._run(*held, **options)
        return graph, held, figures


def resume(steppers: list[torch.optim.Optimizer], state: dict[str, Any] | None) -> int:
    """Give optimizers what a checkpoint holds of them; returns how many steps it has done. None: the start."""
    if state is None:
        return 0
    for stepper, stored in zip(steppers, state["optimizers"], strict=True):
        stepper.load_state_dict(stored)
    done: int = state["step"]
    return done


def optimizers(model: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the matrices within blocks, AdamW for the two ends, norms, biases and tables.

    A table of attention biases by distance learns ten times as fast: it decides where a token looks at all, and its
    entries have to become large.
    """
    matrices, tables, others = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "relative_attention_bias" in name:
            tables.append(parameter)
        else:
            (matrices if parameter.ndim == 2 and "block" in name else others).append(parameter)
    muon = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    groups = [{"params": others, "times": 1.0}, *([{"params": tables, "times": 10.0}] if tables else [])]
    return [muon, torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)]


def advance(steppers: list[torch.optim.Optimizer], learning_rate: float) -> None:
    """One step of all."""
    for stepper in steppers:
        for group in stepper.param_groups:
            group["lr"] = learning_rate * group.get("times", 1.0)
        stepper.step()


def parser(description: str, steps: int) -> argparse.ArgumentParser:
    """What each part is told on the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/shapes"), help="checkpoints and data")
    parser.add_argument("--steps", type=int, default=steps, help="of the whole training")
    parser.add_argument("--minutes", type=float, default=10, help="that this part may take")
    parser.add_argument("--total-minutes", type=float, default=math.inf, help="that the whole training may take")
    parser.add_argument("--batch", type=int, default=0, help="clips a step; 0 is the part's own")
    parser.add_argument("--clips", type=int, default=80_000, help="clips to train on")
    return parser


def begin(options: argparse.Namespace, name: str) -> Run:
    """Make the folder, set the seed and start the clock."""
    options.folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    return Run(options.folder, name, options.steps, options.minutes, options.total_minutes, device)
