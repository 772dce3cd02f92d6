"""Peak memory of one rank, predicted before anything is loaded.

    weights       the pieces that the placements of the params give the rank, but for those kept on the host
    inputs        every rank gets them whole, and takes its pieces of them
    activations   the most that is alive at once while the lowered program runs, with what is kept for later calls
    allowance     what CUDA, its libraries and NCCL take beside torch's allocator

Activations are found by running the very program that the rank would run, on ``meta`` tensors, and counting live
storages. So aliasing, block boundaries and the buffers of collectives are those of the real run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import fastvideo_ir as ir
from fastvideo_ir.fetching import kept_on_host
from fastvideo_ir.graph import result_types
from fastvideo_ir.memory import MOST_INVARIANT, keep
from fastvideo_ir.memory import Memory as RankMemory

from ..canonicalize import Canonicalize
from ..localize import localize
from ..outline_blocks import OutlineBlocks
from ..recognize_attention import RecognizeAttention
from .live_storages import LiveStorages

CUDA_ALLOWANCE = 640 * 2**20
"""CUDA's context with the loaded kernels (about half a GiB) and the workspaces of cuBLAS and cuDNN."""
NCCL_ALLOWANCE = 384 * 2**20
"""Channel buffers of NCCL's communicators on one rank."""
USABLE = 0.9
"""Share of a device's memory that a program may plan to fill."""
META = torch.device("meta")


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank.

    Attributes:
        weights, inputs, activations, allowance: as in the module's text.
        buffers: of ``activations``, what the largest transfer sends and receives.
        host: weights that are kept in the host's memory; while they are fetched they count as activations.
    """

    weights: int
    inputs: int
    activations: int
    allowance: int = 0
    buffers: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.inputs + self.activations + self.allowance


def local_bytes(program: ir.Program, node: torch.fx.Node, rank: int) -> int:
    """Bytes of a tensor's piece on ``rank``."""
    kind = ir.tensor_type(node)
    return math.prod(kind.local_shape(program.mesh, program.mesh.coordinates(rank))) * kind.dtype.itemsize


def weight_bytes(program: ir.Program, rank: int) -> int:
    """Bytes of the params' pieces that stay on the device of ``rank``."""
    away = kept_on_host(program)
    return sum(local_bytes(program, param, rank) for param in program.param_nodes if param not in away)


def predict_memory(program: ir.Program, rank: int = 0, *, device: str = "cuda") -> Memory:
    """The peak on one rank; rank 0 has the largest pieces of everything.

    Args:
        program: planned, at stage COMMUNICATING.
        rank: of the program's mesh.
        device: type of the device; on the CPU there is no allowance.
    """
    asked = (predict_memory.__name__, rank, device)
    if asked not in program.findings:
        program.findings[asked] = _predict(program, rank, device)
    found = program.findings[asked]
    assert isinstance(found, Memory)
    return found


def _predict(program: ir.Program, rank: int, device: str) -> Memory:
    local = _without_python(localize(program, rank))
    ir.run_passes(local, [OutlineBlocks(generator="eager")])
    buffers, kept = _Buffers(), RankMemory()
    kept.invariant = {}

    def run(params: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> None:
        ir.interpreter.run_rank(local, params, inputs, buffers, META, kept)

    ranks = program.mesh.num_ranks
    found = _peak(program, rank, run)
    others = (MOST_INVARIANT - 1) * sum(local_bytes(program, n, rank) for n in program.nodes if n.target is keep)
    return replace(
        found,
        activations=found.activations + others,
        allowance=_allowance(device, ranks),
        buffers=buffers.largest,
    )


def predict_eager_memory(program: ir.Program, *, device: str = "cuda") -> Memory:
    """The peak of the model itself, op by op on one device, as when a capture is checked against it. A lower bound:
    the frames of Python hold tensors until a function returns, which no graph shows.

    Args:
        program: as captured.
        device: as for :func:`predict_memory`.
    """
    whole = _without_python(program.copy())
    ir.run_passes(whole, [Canonicalize(), RecognizeAttention()])  # or the scores of every attention would count

    def run(params: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> None:
        ir.interpreter.evaluate(whole, params, inputs, META)

    return replace(_peak(whole, 0, run), allowance=_allowance(device, 1))


def _peak(program: ir.Program, rank: int, run: Callable[[Mapping[str, Tensor], Sequence[Tensor]], None]) -> Memory:
    """What a rank holds, and the most that is alive while ``run`` runs on params and inputs without values."""
    at = program.mesh.coordinates(rank)
    params = {
        program.params[node.name].key: _empty(ir.tensor_type(node).local_shape(program.mesh, at), node)
        for node in program.param_nodes
    }
    inputs = [_empty(ir.tensor_type(node).shape, node) for node in program.input_nodes]
    with torch.no_grad(), LiveStorages([*params.values(), *inputs]) as live:
        run(params, inputs)
    away = kept_on_host(program)
    host = sum(local_bytes(program, param, rank) for param in away)
    weights = sum(map(_nbytes, params.values())) - host
    return Memory(weights=weights, inputs=sum(map(_nbytes, inputs)), activations=live.peak, host=host)


def _without_python(program: ir.Program) -> ir.Program:
    """The program with modules that stay Python replaced by what they yield: they cannot run without values."""
    kinds = {str(node.args[1]): result_types(node) for node in program.nodes if node.target is ir.dialect.eager_call}

    def yielding(results: Sequence[ir.TensorType | None]) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
        present = [kind for kind in results if kind is not None]
        return lambda operands: [torch.empty(kind.shape, dtype=kind.dtype, device=META) for kind in present]

    return replace(program, functions={name: yielding(results) for name, results in kinds.items()})


def _allowance(device: str, ranks: int) -> int:
    if device == "cpu":
        return 0
    return CUDA_ALLOWANCE + (NCCL_ALLOWANCE if ranks > 1 else 0)


class _Buffers:
    """A communicator that receives empty buffers."""

    def __init__(self) -> None:
        self.largest = 0

    def exchange(self, axis: str, send: Tensor, send_numels: list[int], receive_numels: list[int]) -> Tensor:
        return self._receive(send, send.new_empty(sum(receive_numels)))

    def all_gather(self, axis: str, value: Tensor, numels: list[int]) -> Tensor:
        return self._receive(value, value.new_empty(sum(numels)))

    def all_reduce(self, axis: str, value: Tensor) -> Tensor:
        return self._receive(value, torch.empty_like(value))

    def broadcast(self, value: Tensor) -> Tensor:
        return value

    def _receive(self, sent: Tensor, received: Tensor) -> Tensor:
        self.largest = max(self.largest, _nbytes(sent) + _nbytes(received))
        return received


def _empty(shape: tuple[int, ...], node: torch.fx.Node) -> Tensor:
    return torch.empty(shape, dtype=ir.tensor_type(node).dtype, device=META)


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
