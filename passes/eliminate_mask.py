"""``eliminate-mask``: attention masks that hide nothing go; those that hide the last keys become lengths.

What a mask hides is a matter of the inputs' values: the mask of a padded prompt, say. So the pass offers an *observer*,
a program that tells masks' *kinds* from the inputs; it is told what that found for one call, and the program then holds
for calls of the same kinds. The kind is all that is fixed: lengths are computed by the program, so that prompts of all
lengths, and batches of several, run the same code.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

import fastvideo_ir as ir
from fastvideo_ir.errors import BackendUnavailableError, InvalidArgumentError
from fastvideo_ir.first_rank import runs_on_first_rank
from fastvideo_ir.graph import bind, map_arguments
from fastvideo_ir.ops.define import aten
from fastvideo_ir.ops.restricted_attention import allowed_backends, awaits_backend

from ..backends import attention
from .planner.policy import policy_of

CHUNK = 1 << 28
"""Elements of a mask that are looked at at a time."""
FLOAT_MASKS = (torch.float32, torch.float64, torch.bfloat16)
"""Where the lowest number is so low that no finite score shows beside it."""


class MaskKind(enum.IntEnum):
    """What a mask hides; its text is what becomes of it."""

    ANY = 0
    ALL_SEEN = 1
    """Nothing."""
    FIRST_KEYS = 2
    """The last keys of each row of the batch, for all queries and heads alike; never all of them."""
    FIRST_TOKENS = 3
    """The same, and from some queries everything, whose results are zero."""

    def __str__(self) -> str:
        return _BECOMES[self]


_BECOMES = {
    MaskKind.ANY: "mask kept: it hides other keys than the last ones",
    MaskKind.ALL_SEEN: "mask dropped: it hides nothing",
    MaskKind.FIRST_KEYS: "mask as a length of each row: it hides the last keys alone",
    MaskKind.FIRST_TOKENS: "mask as a length of each row: it hides the last keys, and everything from some queries",
}


class EliminateMask(ir.ObservingPass):
    """Stands before backends are selected: the fastest of them take lengths, but no masks.

    A mask is kept where it depends on weights, on random numbers or on what stays Python, and as lengths would be where
    no backend that may run the attention takes them.

    Attributes:
        backend: what ``select-attention-backend`` will choose by.
        device: type of the device that the program will run on.
        kinds: of the masks that the observer computes, in its order; None: only masks of constants are known.
    """

    name = "eliminate-mask"
    needs = ir.Stage.CANONICAL

    backend: attention.Wish = attention.AUTO
    device: str = "cpu"
    kinds: tuple[int, ...] | None = None

    def run(self, program: ir.Program) -> None:
        masks = _masks(program, constants_alone=self.kinds is None)
        if not masks:
            return
        kinds = self.kinds if self.kinds is not None else _evaluate_constants(self._observer(program, masks))
        if len(kinds) != len(masks):
            raise InvalidArgumentError(f"{self.name} is told the kinds of {len(kinds)} masks; there are {len(masks)}")
        rewriter = ir.Rewriter(program, self.name)
        for (mask, sites), kind in zip(masks.items(), kinds, strict=True):
            _rewrite(rewriter, mask, sites, MaskKind(kind))
        rewriter.erase_dead()

    def observer(self, program: ir.Program) -> ir.Program | None:
        """What computes ``kinds``; None: no mask is known."""
        masks = _masks(program)
        return self._observer(program, masks) if masks else None

    def told(self, found: tuple[int, ...]) -> EliminateMask:
        return replace(self, kinds=found)

    def meanings(self, program: ir.Program) -> tuple[str, ...]:
        """What becomes of the masks."""
        sites = map(len, _masks(program).values())
        return tuple(f"{count} × {MaskKind(kind)}" for count, kind in zip(sites, self.kinds or (), strict=True))

    def _observer(self, program: ir.Program, masks: dict[fx.Node, list[fx.Node]]) -> ir.Program:
        ring = any(policy_of(axis).whole_heads for axis in program.mesh.names)
        taken = {mask: all(self._takes_lengths(site, ring) for site in sites) for mask, sites in masks.items()}
        return _observer(program, taken)

    def _takes_lengths(self, site: fx.Node, ring: bool) -> bool:
        """Whether a backend that may run ``site`` takes lengths instead of its mask."""
        found = attention.AttentionSite.of(site, self.device, ring)
        assert found.mask is not None
        if found.causal or found.mask.shape[-1] != found.key.shape[2]:
            return False
        cut = found.with_lengths(ir.TensorType(torch.int32, found.query.shape[:1]))
        asked = attention.wished(self.backend)
        if asked is not None:  # one that leaves sites to others may take this one with its mask
            return isinstance(asked.answer(cut), attention.Yes)
        try:
            attention.choose(cut, among=allowed_backends(site))
        except BackendUnavailableError:
            return False
        return True


def _evaluate_constants(observer: ir.Program) -> list[int]:
    """What an observer finds that reads none of its inputs."""
    unread = [torch.empty(0) for _ in observer.input_nodes]
    return [int(value) for value in ir.interpreter.evaluate(observer, {}, unread, torch.device("cpu"))]


def _masks(program: ir.Program, constants_alone: bool = False) -> dict[fx.Node, list[fx.Node]]:
    """Masks that are known before the program runs, with their sites. One stands for all that are computed alike."""
    found: dict[fx.Node, list[fx.Node]] = {}
    alike = _Alike(program)
    for node in program.nodes:
        mask = bind(node)["mask"] if awaits_backend(node) else None
        if isinstance(mask, fx.Node) and mask in (alike.constants if constants_alone else alike.known):
            found.setdefault(alike.first(mask), []).append(node)
    return found


class _Alike:
    """Which values are known before a program runs, and which of them are computed in the same way.

    Attributes:
        known: those that follow from inputs and constants.
        constants: those that follow from nothing.
    """

    def __init__(self, program: ir.Program) -> None:
        self.known: dict[fx.Node, fx.Node] = {}
        self.constants: set[fx.Node] = set()
        first: dict[Hashable, fx.Node] = {}
        for node in program.nodes:
            if node.op == "placeholder":
                param = program.params.get(node.name)
                if param is None or param.kind is ir.ParamKind.CONSTANT:
                    self.known[node] = node
            elif node.op == "call_function" and not runs_on_first_rank(node):
                if all(operand in self.known for operand in node.all_input_nodes):
                    self.known[node] = first.setdefault(self._key(node), node)
                if all(operand in self.constants for operand in node.all_input_nodes):
                    self.constants.add(node)

    def first(self, node: fx.Node) -> fx.Node:
        """The first value that is computed as ``node`` is."""
        return self.known[node]

    def _key(self, node: fx.Node) -> Hashable:
        return node.target, repr(map_arguments(node, lambda operand: self.known[operand].name))


def _observer(program: ir.Program, masks: dict[fx.Node, bool]) -> ir.Program:
    """A program that computes the kinds of masks; of those that cannot become lengths, whether they hide anything."""
    observer = program.copy()
    rewriter = ir.Rewriter(observer, EliminateMask.name)
    copies = {node.name: node for node in observer.nodes}
    scalar = ir.TensorType(torch.int64, ())
    kinds = []
    for mask, lengths_taken in masks.items():
        copy = copies[mask.name]
        after = copy if copy.op == "call_function" else _last_placeholder(observer)
        kinds.append(rewriter.insert(mask_kind, (copy, lengths_taken), after=after, sources=(copy,), type=scalar))
    rewriter.set_outputs(kinds)
    rewriter.erase_dead()
    for node in observer.param_nodes:
        if not node.users:
            rewriter.erase_param(node)
    return observer


def _last_placeholder(program: ir.Program) -> fx.Node:
    return [node for node in program.nodes if node.op == "placeholder"][-1]


def mask_kind(mask: Tensor, lengths_taken: bool) -> Tensor:
    """The :class:`MaskKind` of a boolean or additive mask as an int64 scalar.

    Args:
        mask: broadcastable to ``[batch, heads, queries, keys]``.
        lengths_taken: whether kinds that become lengths are told from ``ANY``.
    """
    whole = mask.reshape((1,) * (4 - mask.dim()) + mask.shape)
    counts = _seen(whole[:, :1, :1]).sum(-1, keepdim=True)  # of keys that the first query of each row sees
    first_keys = torch.arange(whole.shape[-1], device=mask.device) < counts
    all_seen = alike = alike_or_none = torch.ones((), dtype=torch.bool, device=mask.device)
    usual = (counts > 0).all()
    rows = max(1, CHUNK * whole.shape[2] // max(1, whole.numel()))
    for part in torch.split(whole, rows, 2):
        seen = _seen(part)
        all_seen = all_seen & seen.all()
        usual = usual & (seen | _hidden(part)).all()
        alike = alike & (seen == first_keys).all()
        alike_or_none = alike_or_none & (seen == (first_keys & seen[..., :1])).all()
    kind = torch.full((), MaskKind.ANY, dtype=torch.int64, device=mask.device)
    if lengths_taken:
        if mask.dtype == torch.bool:  # what an additive mask leaves of a query that sees nothing is not always zero
            kind = kind.masked_fill(usual & alike_or_none, MaskKind.FIRST_TOKENS)
        kind = kind.masked_fill(usual & alike, MaskKind.FIRST_KEYS)
    return kind.masked_fill(all_seen, MaskKind.ALL_SEEN)


def _seen(mask: Tensor) -> Tensor:
    return mask if mask.dtype == torch.bool else mask == 0


def _hidden(mask: Tensor) -> Tensor:
    """Where the weight of a key is zero, whatever its score is."""
    if mask.dtype == torch.bool:
        return ~mask
    return mask <= torch.finfo(mask.dtype).min if mask.dtype in FLOAT_MASKS else mask == -torch.inf


def _rewrite(rewriter: ir.Rewriter, mask: fx.Node, sites: Sequence[fx.Node], kind: MaskKind) -> None:
    if kind is MaskKind.ANY:
        return
    if kind is MaskKind.ALL_SEEN:
        for site in sites:
            _set_mask(rewriter, site, None)
        return
    edit = _Edit(rewriter, mask)
    lengths = edit.lengths(ir.tensor_type(sites[0]).shape[0])
    unseeing = edit.unseeing_queries() if kind is MaskKind.FIRST_TOKENS else None
    for site in sites:
        _set_mask(rewriter, site, lengths)
        if unseeing is not None:
            readers = set(site.users)
            zeroed = rewriter.insert(aten.masked_fill.Scalar, (site, unseeing, 0), after=site, sources=(site,))
            rewriter.replace(site, zeroed, only=readers.__contains__, erase=False)


def _set_mask(rewriter: ir.Rewriter, site: fx.Node, mask: fx.Node | None) -> None:
    arguments = bind(site)
    arguments["mask"] = mask
    rewriter.set_arguments(site, tuple(arguments.values()), {})


class _Edit:
    """Ops on a mask, as ``[batch, heads, queries, keys]`` of booleans, right behind it."""

    def __init__(self, rewriter: ir.Rewriter, mask: fx.Node) -> None:
        self._rewriter, self._mask = rewriter, mask
        self._last = mask if mask.op == "call_function" else _last_placeholder(rewriter.program)
        kind = ir.tensor_type(mask)
        whole = (1,) * (4 - len(kind.shape)) + kind.shape
        seen = mask if kind.dtype == torch.bool else self._call(aten.eq.Scalar, mask, 0)
        self._seen = seen if whole == kind.shape else self._call(aten.reshape.default, seen, list(whole))

    def lengths(self, batch: int) -> fx.Node:
        """``[batch]``: how many keys the first query of each row sees."""
        row = self._call(aten.select.int, self._call(aten.select.int, self._seen, 1, 0), 1, 0)
        counts = self._call(aten.sum.dim_IntList, row, [-1])
        narrow = self._call(aten.to.dtype, counts, torch.int32)
        whole = ir.tensor_type(narrow).shape == (batch,)
        return narrow if whole else self._call(aten.expand.default, narrow, [batch])

    def unseeing_queries(self) -> fx.Node:
        """``[batch, heads, queries, 1]``: where even the first key is hidden."""
        column = self._call(aten.slice.Tensor, self._seen, 3, 0, 1)
        return self._call(aten.logical_not.default, column)

    def _call(self, target: Any, *args: Any) -> fx.Node:
        self._last = self._rewriter.insert(target, args, after=self._last, sources=(self._mask,))
        return self._last
