"""What crosses between the ranks in each repeated block of a model, and what must cross at least.

A block is an element of an outermost ``nn.ModuleList`` of modules of one class. A collective belongs to the block in
whose stretch of the program it stands, or to the one that follows if it stands between two of one kind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx, nn

import fastvideo_ir as ir
from fastvideo_ir.collectives import Move
from fastvideo_ir.graph import is_getitem, result_types, tensor_operands

ATTENTION = ("fv_attn.", "fv.attention", "fv.ring_attention")


@dataclass
class BlockTraffic:
    """One block on the rank that sends most.

    Attributes:
        path: of the block's module.
        collectives: how many of each op.
        bytes: sent by one rank, the largest of all ranks.
        gathers: its all-gathers.
        sites: attentions inside, as their tensor operands and result were before any placement.
    """

    path: str
    collectives: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    gathers: list[fx.Node] = field(default_factory=list)
    sites: list[fx.Node] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The list that the block's module stands in."""
        return self.path.rpartition(".")[0]


def block_paths(model: nn.Module) -> list[str]:
    """The modules that a model repeats, in order."""
    return list(_repeated("", model))


def _repeated(path: str, module: nn.Module) -> Iterator[str]:
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        alike = isinstance(child, nn.ModuleList) and len({type(element) for element in child}) == 1
        if alike and any(True for _ in next(iter(child.children())).parameters()):
            yield from (f"{inner}.{number}" for number in range(len(list(child.children()))))
        else:
            yield from _repeated(inner, child)


def traffic(program: ir.Program, paths: list[str]) -> list[BlockTraffic]:
    """Per block that the program runs. The program stands at COMMUNICATING."""
    calls = [node for node in program.nodes if node.op == "call_function"]
    owner = [_block_of(node, paths) for node in calls]
    last = {path: position for position, path in enumerate(owner) if path}
    blocks = {path: BlockTraffic(path) for path in last}
    for position, node in enumerate(calls):
        path = owner[position] or _around(position, owner, last)
        if path is None:
            continue
        if ir.ops.target_name(node.target).startswith(ATTENTION):
            blocks[path].sites.append(node)
        if node.target in ir.dialect.COLLECTIVES:
            _add(blocks[path], program, node)
    return list(blocks.values())


def steady(blocks: list[BlockTraffic]) -> list[BlockTraffic]:
    """Without the first block of each kind, where tokens that were held otherwise before also take their places."""
    first: set[str] = set()
    later = []
    for block in blocks:
        if block.kind in first or sum(other.kind == block.kind for other in blocks) == 1:
            later.append(block)
        first.add(block.kind)
    return later


def _block_of(node: fx.Node, paths: list[str]) -> str | None:
    """Where a node computes; placement ops bear the location of what they move and say nothing."""
    place = ir.info(node).location
    if place is None or isinstance(node.target, ir.dialect.PlacementOp):
        return None
    return next((path for path in paths if place.module == path or place.module.startswith(f"{path}.")), None)


def _around(position: int, owner: list[str | None], last: dict[str, int]) -> str | None:
    """The block that is under way at a position, or else the one that comes next, if it follows one of its kind."""
    before = next((path for path in reversed(owner[:position]) if path), None)
    after = next((path for path in owner[position:] if path), None)
    if before is None or after is None:
        return None
    if last[before] > position:
        return before
    return after if after.rpartition(".")[0] == before.rpartition(".")[0] else None


def _add(block: BlockTraffic, program: ir.Program, node: fx.Node) -> None:
    axis = str(node.args[1])
    block.collectives[ir.ops.target_name(node.target).removeprefix("fv.")] += 1
    pairs = [
        (ir.tensor_type(operand), kind)
        for operand, kind in zip(tensor_operands(node), result_types(node), strict=True)
        if kind is not None
    ]
    block.bytes += max(bytes_sent(pairs, axis, program.mesh, rank) for rank in range(program.mesh.num_ranks))
    if node.target is ir.dialect.all_gather:
        block.gathers.append(node)


def bytes_sent(pairs: list[tuple[ir.TensorType, ir.TensorType]], axis: str, mesh: ir.Mesh, rank: int) -> int:
    """What leaves a rank; an all-reduce counts as a reduce-scatter and an all-gather."""
    at = mesh.coordinates(rank)
    return int(sum(Move(one, two, axis, mesh, at).numel_sent() * two.dtype.itemsize for one, two in pairs))


@dataclass(frozen=True)
class Division:
    """How the ranks share one attention: ``sp`` of them its tokens, and ``others`` its batch or its heads."""

    sp: int
    others: int

    @staticmethod
    def of(mesh: ir.Mesh) -> Division:
        sp = dict(mesh.axes).get("sp", 1)
        return Division(sp, mesh.num_ranks // sp)


def floor(block: BlockTraffic, division: Division) -> int:
    """Bytes that a rank must send at least in a block whose tokens are shared, see docs/coverage.md."""
    sites = [site for site in block.sites if mixes_tokens(site, division)]
    return sum(min(_exchanged(site, division), _gathered(site, division)) for site in sites)


def mixes_tokens(site: fx.Node, division: Division) -> bool:
    """Whether an attention reads sharded tokens: not a short text, and not many short rows of their own."""
    query, key = (ir.tensor_type(operand) for operand in tensor_operands(site)[:2])
    rows = math.prod(query.shape[:-3]) // division.others
    return key.shape[-2] >= query.shape[-2] and rows < division.sp


def stream(block: BlockTraffic) -> int:
    """Elements of the largest stream of tokens that an attention of the block reads."""
    return max((math.prod(ir.tensor_type(tensor_operands(site)[0]).shape) for site in block.sites), default=0)


def _exchanged(site: fx.Node, division: Division) -> int:
    """Queries, keys, values and the result once from tokens to heads, or back: each rank keeps a P-th of its own."""
    kind = result_types(site)[0]
    assert kind is not None
    size = math.prod(kind.shape) * kind.dtype.itemsize + sum(_bytes(operand) for operand in tensor_operands(site)[:3])
    size = int(size * _share_of_main_tokens(tensor_operands(site)[0]))
    return (division.sp - 1) * size // (division.sp**2 * division.others)


def _gathered(site: fx.Node, division: Division) -> int:
    """Keys and values to every rank."""
    size = sum(_bytes(operand) for operand in tensor_operands(site)[1:3])
    size = int(size * _share_of_main_tokens(tensor_operands(site)[0]))
    return (division.sp - 1) * size // (division.sp * division.others)


COPIES = (
    *("aten.expand.", "aten.reshape.", "aten.view.", "aten.flatten.", "aten.unsqueeze.", "aten.transpose."),
    *("aten.permute.", "aten.clone.", "aten.alias.", "aten.contiguous.", "aten.repeat_interleave.", "aten.to."),
    *("aten._to_copy.", "getitem", "fv."),
)


def _bytes(value: fx.Node) -> int:
    """Of a value, or of what it is a mere copy of: shared keys, and casts, cross where they are least."""
    return min(math.prod(kind.shape) * kind.dtype.itemsize for kind in _forms(value))


def _forms(value: fx.Node) -> Iterator[ir.TensorType]:
    """A value's type, and those of what it is a copy of."""
    yield ir.tensor_type(value)
    while value.op == "call_function" and ir.ops.target_name(value.target).startswith(COPIES):
        if is_getitem(value):
            row, number = value.args
            assert isinstance(row, fx.Node)
            assert isinstance(number, int)
            if row.target not in ir.dialect.COLLECTIVES:
                break
            value = tensor_operands(row)[number]
        else:
            value = tensor_operands(value)[0]
        yield ir.tensor_type(value)


MATMULS = ("aten.linear.", "aten.matmul.", "aten.mm.", "aten.bmm.", "aten.addmm.", "fv_attn.", "fv.linear")


def _share_of_main_tokens(query: fx.Node) -> float:
    """How many of a joint attention's tokens come from its largest source: every rank may hold all of the others."""
    length = ir.tensor_type(query).shape[-2]
    seen, waiting = {query}, [query]
    while waiting:
        node = waiting.pop()
        if node.op != "call_function" or ir.ops.target_name(node.target).startswith(MATMULS):
            continue
        if ir.ops.target_name(node.target).startswith("aten.cat."):
            pieces = [ir.tensor_type(piece).shape for piece in tensor_operands(node)]
            dim = node.args[1] if len(node.args) > 1 else 0
            assert isinstance(dim, int)
            if sum(shape[dim] for shape in pieces) == length:
                return max(shape[dim] for shape in pieces) / length
        fresh = [operand for operand in node.all_input_nodes if operand not in seen]
        seen.update(fresh)
        waiting += fresh
    return 1.0
