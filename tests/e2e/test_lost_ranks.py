"""A compiled model whose ranks have died between calls: whatever is asked next starts them anew."""

from __future__ import annotations

import os
import signal
import time

import torch

import fastvideo

from . import toy
from .test_compile import assert_agrees, compiled_toy


def test_ranks_that_died_start_anew_whatever_comes_next() -> None:
    model = toy.build(1)
    with compiled_toy(model, num_gpus=2) as compiled:
        assert_agrees(compiled, model)
        kill_worker(compiled)
        assert compiled(**toy.inputs(tokens=31)).sample.shape[1] == 31  # another signature than before
        kill_worker(compiled)
        with torch.no_grad():
            next(model.parameters()).mul_(2)
        compiled.update_weights()
        assert_agrees(compiled, model)


def kill_worker(compiled: fastvideo.CompiledModel) -> None:
    group = compiled._ranks.group
    assert group is not None
    os.kill(group.pids[1], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while group.alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not group.alive
