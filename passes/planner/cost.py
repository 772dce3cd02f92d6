"""The cost model: seconds of compute on the busiest rank, and seconds of communication.

compute     flops / rate + bytes / memory bandwidth on the busiest rank
ring        per step the longer of compute and transfer, plus latency; and the merges
halo        the edges' bytes / link + latency, and a copy of the piece with its edges
all-gather  (P − 1)/P · bytes / link + latency          sharded → replicated
all-to-all  (P − 1)/P² · bytes / link + latency         one sharded dim → another
reduce      twice an all-gather's, or once for a reduce-scatter
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.factors import Strategy
from fastvideo_ir.graph import result_types, tensor_operands

RING_EFFICIENCY = 0.93
"""Speed of attention piece by piece, as a share of all at once: kernels are short, transfers take their part."""
MERGE_TRAFFIC = 5
"""Bytes that a merge moves per byte of a half-precision result: it and two results in fp32."""


@dataclass(frozen=True)
class Hardware:
    """Rates of one device and of its links. Defaults: one H200 and NVLink, as measured or published.

    Attributes:
        name: of the device.
        matmul_flops: dense bf16/fp16 FLOP/s; fp32 is taken as a tenth of it.
        memory_bandwidth: bytes/s, reads plus writes.
        link_bandwidth: bytes/s that one rank sends.
        latency: seconds per collective.
        memory: bytes of one device.
    """

    name: str = "H200"
    matmul_flops: float = 7.0e14
    memory_bandwidth: float = 4.2e12
    link_bandwidth: float = 3.5e11
    latency: float = 2.0e-5
    memory: int = 140 * 2**30

    def __str__(self) -> str:
        return self.name

    def flop_rate(self, dtype: torch.dtype) -> float:
        return self.matmul_flops if dtype.itemsize <= 2 else self.matmul_flops / 10


@dataclass(frozen=True)
class Work:
    """What one op does when nothing is sharded along the axis being planned.

    Attributes:
        flops: floating point operations.
        rate: FLOP/s at the op's dtype.
        operands: bytes of each operand; zeros for an op that moves nothing.
        results: bytes of each result.
        bandwidth: bytes/s of memory.
    """

    flops: int
    rate: float
    operands: tuple[int, ...]
    results: tuple[int, ...]
    bandwidth: float

    @property
    def seconds(self) -> float:
        """Time when every rank does all of it."""
        return self.flops / self.rate + sum(self.operands + self.results) / self.bandwidth


def largest_local_numel(kind: ir.TensorType, mesh: ir.Mesh, axes: frozenset[str]) -> int:
    """Elements of the largest piece, counting only the sharding over ``axes``."""
    total = 1
    for size, dim in zip(kind.shape, kind.dims, strict=True):
        parts = math.prod(mesh.size(axis) for axis in dim.axes if axis in axes) if dim else 1
        total *= dim.layout.largest_piece(parts) if dim and parts > 1 else size
    return total


@dataclass(frozen=True)
class CostModel:
    """Costs along one axis of ``parts`` ranks; ``settled`` axes have been planned and already divide the work."""

    hardware: Hardware
    mesh: ir.Mesh
    axis: str
    settled: frozenset[str]

    @property
    def parts(self) -> int:
        return self.mesh.size(self.axis)

    def bytes_of(self, kind: ir.TensorType) -> int:
        return largest_local_numel(kind, self.mesh, self.settled) * kind.dtype.itemsize

    def work(self, node: fx.Node) -> Work:
        """What a node does over all of this axis' iterations."""
        op = ir.ops.of(node)
        operands, results = tensor_operands(node), result_types(node)
        first = results[0]
        rate = self.hardware.flop_rate(first.dtype) if first else 1.0
        flops = op.flops(node) if op is not None and op.flops is not None else 0
        if flops and first and first.numel:
            flops = int(flops * largest_local_numel(first, self.mesh, self.settled) / first.numel)
        if op is not None and (ir.Trait.VIEW in op.traits or ir.Trait.PLACEMENT in op.traits):
            return Work(0, rate, (0,) * len(operands), (0,) * len(results), self.hardware.memory_bandwidth)
        return Work(
            flops,
            rate,
            tuple(self.bytes_of(ir.tensor_type(operand)) for operand in operands),
            tuple(0 if kind is None else self.bytes_of(kind) for kind in results),
            self.hardware.memory_bandwidth,
        )

    def compute(self, work: Work, strategy: Strategy) -> float:
        """Seconds on the busiest rank, which reads whole operands (weights) and talks to others inside of the op."""
        if strategy.travelling:
            return self._ring(work, strategy)
        share = strategy.largest_share(self.parts)
        operands = zip(work.operands, strategy.operands, strict=True)
        results = zip(work.results, strategy.results, strict=True)
        moved = sum(
            size * (share if isinstance(placement, ir.Shard) else 1.0) for size, placement in (*operands, *results)
        )
        inside = sum(self.reshard(kind, ir.Partial(), ir.Replicate()) for kind in strategy.statistics)
        if strategy.halo is not None:
            edges, copied = work.operands[0] * strategy.halo, 2 * work.operands[0] * (share + strategy.halo)
            inside += edges / self.hardware.link_bandwidth + self.hardware.latency + copied / work.bandwidth
        return work.flops * share / work.rate + moved / work.bandwidth + inside

    def _ring(self, work: Work, strategy: Strategy) -> float:
        """Seconds of an attention whose keys and values travel: a transfer runs while a piece is computed with."""
        share = strategy.largest_share(self.parts)
        step = work.flops * share / self.parts / (work.rate * RING_EFFICIENCY)
        sent = sum(work.operands[number] for number in strategy.travelling) / self.parts
        transfer = sent / self.hardware.link_bandwidth
        merge = MERGE_TRAFFIC * sum(work.results) * share / work.bandwidth
        return step + (self.parts - 1) * (max(step, transfer) + self.hardware.latency + merge)

    def reshard(self, kind: ir.TensorType, source: ir.Placement, target: ir.Placement) -> float:
        """Seconds to take a value from one placement along the axis to another; infinite where it cannot be done."""
        if source == target:
            return 0.0
        size = self.bytes_of(kind)
        others = (self.parts - 1) / self.parts
        link, latency = size * others / self.hardware.link_bandwidth, self.hardware.latency
        match source, target:
            case ir.Replicate(), ir.Shard():
                return size / self.parts / self.hardware.memory_bandwidth
            case ir.Replicate(), ir.Partial():
                return size / self.hardware.memory_bandwidth
            case ir.Shard(), ir.Replicate():
                return link + latency
            case ir.Shard(), ir.Shard():
                return link / self.parts + latency
            case ir.Partial(), ir.Replicate():
                return 2 * link + latency
            case ir.Partial(), ir.Shard():
                return link + latency
        return math.inf
