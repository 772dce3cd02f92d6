"""What the hand-written context-parallel plans of diffusers move between ranks, counted while diffusers runs them.

One rank of a fake process group runs the model with its plan applied (``_cp_plan``, Ulysses attention), and every
collective that it calls is counted in the block that calls it. The same model and inputs are then planned here for as
many ranks. The plans need token counts that the ranks divide, so that the inputs are of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

import fastvideo_ir as ir
from fastvideo.frontends.capture import capture
from fastvideo.passes.pipelines import Target, default_pipeline

from ..models import Inputs
from .blocks import BlockTraffic, block_paths, steady, traffic
from .cases import Draw
from .meshes import HEADS
from .zoo import ZOO

TEXT, TEXT_DIM = 12, 16
RANKS = (2, 4)


@dataclass
class Moved:
    """What crosses in one kind of block: how many collectives, and the bytes that one rank sends."""

    collectives: int = 0
    bytes: int = 0


def _video(draw: Draw) -> dict[str, Any]:
    return {
        "hidden_states": draw.tokens(4, 4, 8, 12),
        "timestep": draw.timestep(),
        "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
        "return_dict": False,
    }


def _patches(draw: Draw, channels: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_states": draw.tokens(96, channels),
        "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
        "timestep": draw.fraction(),
        "return_dict": False,
        **more,
    }


def _positions(draw: Draw, axes: int) -> dict[str, Any]:
    image = torch.cat([draw.ids(8, 12), draw.ids(8, 12)[:, : axes - 3]], dim=1)
    return {"img_ids": image, "txt_ids": torch.zeros(TEXT, axes, dtype=draw.dtype)}


def _sound(draw: Draw) -> dict[str, Any]:
    return {
        "hidden_states": draw.tokens(96, 4),
        "audio_hidden_states": draw.tokens(24, 4),
        "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
        "audio_encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
        "timestep": draw.timestep(),
        "encoder_attention_mask": None,
        "num_frames": 4,
        "height": 4,
        "width": 6,
        "audio_num_frames": 24,
        "isolate_modalities": True,  # attention between the two streams does not run with the plan
        "return_dict": False,
    }


def _modalities(draw: Draw) -> dict[str, Any]:
    at = torch.arange(96)
    return {
        "hidden_states": draw.tokens(72, 16),
        "audio_hidden_states": draw.tokens(12, 6),
        "encoder_hidden_states": draw.tokens(TEXT, TEXT_DIM),
        "timestep": torch.tensor([0, 500]),
        "timestep_indices": (at >= TEXT).long(),
        "token_tags": (at >= TEXT).long() + (at >= 84).long(),
        "position_ids": torch.stack([at // 24, at // 6 % 4, at % 6], dim=-1),
        "video_indices": at[TEXT:84],
        "audio_indices": at[84:],
        "text_indices": at[:TEXT],
        "return_dict": False,
    }


INPUTS: dict[str, Callable[[Draw], dict[str, Any]]] = {
    "Wan": _video,
    "ChronoEdit": _video,
    "Helios": _video,
    "LTX": lambda draw: _patches(
        draw,
        8,
        timestep=draw.timestep(),
        encoder_attention_mask=None,
        num_frames=4,
        height=4,
        width=6,
        rope_interpolation_scale=(8 / 25, 32, 32),
    ),
    "LTX2": _sound,
    "Flux": lambda draw: _patches(
        draw, 8, pooled_projections=draw.tokens(8), guidance=draw.scalar(3.5), **_positions(draw, 3)
    ),
    "Flux2": lambda draw: _patches(
        draw, 8, guidance=draw.scalar(3.5), **{name: ids[None] for name, ids in _positions(draw, 4).items()}
    ),
    "QwenImage": lambda draw: _patches(draw, 16, img_shapes=[[(1, 8, 12)]]),
    "MiniMaxH3": _modalities,
}


def model_and_inputs(name: str) -> tuple[nn.Module, Inputs]:
    """Anew at each call: diffusers' plans change the model."""
    (case,) = [case for case in ZOO if case.name == name]
    draw = Draw(0, torch.float32, 1, torch.Generator().manual_seed(0), HEADS)
    return case.at(HEADS).build(torch.float32), INPUTS[name](draw)


def ours(name: str, ranks: int) -> dict[str, Moved]:
    """Per kind of block, with our plan."""
    model, inputs = model_and_inputs(name)
    program = capture(model, (), inputs, verify=False).program
    program.mesh = ir.Mesh((("sp", ranks),))
    ir.run_passes(program, default_pipeline(Target(ranks)))
    return _by_kind(traffic(program, block_paths(model)))


def theirs(name: str, ranks: int) -> dict[str, Moved]:
    """Per kind of block, with the plan that stands in the model's class."""
    model, inputs = model_and_inputs(name)
    known = {path for path, _ in model.named_modules()}
    plan = {path: moves for path, moves in model._cp_plan.items() if "*" in path or path in known}
    with _fake_ranks(ranks), torch.no_grad():
        model.set_attention_backend("native")
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=ranks), cp_plan=plan)
        with _Counting(model, ranks) as counting:
            model(**inputs)
    return _by_kind([counting.blocks[path] for path in block_paths(model)])


def _by_kind(blocks: list[BlockTraffic]) -> dict[str, Moved]:
    found: dict[str, Moved] = {}
    for block in steady(blocks):
        most = found.setdefault(block.kind, Moved())
        most.collectives = max(most.collectives, block.collectives.total())
        most.bytes = max(most.bytes, block.bytes)
    return found


@contextmanager
def _fake_ranks(ranks: int) -> Iterator[None]:
    """Rank 0 of a process group that sends nothing; diffusers asks for an accelerator, and there may be none."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        with (
            mock.patch.object(torch.accelerator, "device_count", lambda: 1),
            mock.patch.object(torch._C, "_get_accelerator", lambda: torch.device("cpu")),
        ):
            yield
    finally:
        dist.destroy_process_group()


class _Counting(TorchDispatchMode):
    """Counts collectives, and what one rank sends, by the block that is under way."""

    def __init__(self, model: nn.Module, ranks: int) -> None:
        super().__init__()
        self.blocks = {path: BlockTraffic(path) for path in ["", *block_paths(model)]}
        self._ranks = ranks
        self._under_way = [""]
        for path, module in model.named_modules():
            if path in self.blocks and path:
                module.register_forward_pre_hook(lambda *_, path=path: self._under_way.append(path))
                module.register_forward_hook(lambda *_: self._leave(), always_call=True)

    def _leave(self) -> None:
        self._under_way.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func)
        kind = name.split(".")[1].rstrip("_")
        if name.startswith(("_c10d_functional.", "c10d.")) and not kind.startswith(("wait", "_wrap")):
            block = self.blocks[self._under_way[-1]]
            block.collectives[kind] += 1
            block.bytes += int(_SENT[kind](self._ranks) * sum(t.numel() * t.itemsize for t in _operands(name, args)))
        return func(*args, **(kwargs or {}))


_SENT: dict[str, Callable[[int], float]] = {
    "all_to_all_single": lambda ranks: (ranks - 1) / ranks,
    "alltoall_base": lambda ranks: (ranks - 1) / ranks,
    "all_gather_into_tensor": lambda ranks: ranks - 1,
    "allgather": lambda ranks: ranks - 1,
}
"""Share of its own tensor that a rank sends."""


def _operands(name: str, args: Sequence[Any]) -> list[Tensor]:
    """What the rank gives: the first argument, and in the old collectives the second."""
    given = args[1] if name.startswith("c10d.") else args[0]
    return [given] if isinstance(given, Tensor) else list(given)
