"""The order of passes, written down; and pipelines written as text.

default                         the list below
default,my-pass{k=2}            with a registered pass added, at the end of the stage it joins
default,-pack-collectives       without one of its passes
my-pass,other-pass              just these, in this order
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import fastvideo_ir as ir
from fastvideo_ir.errors import InvalidArgumentError, UnknownNameError

from ..backends import attention
from .cache_blocks import CacheBlocks
from .canonicalize import Canonicalize
from .choose_mesh import ChooseMesh
from .eliminate_mask import EliminateMask
from .expand_statistics import ExpandStatistics
from .fold_padding import FoldPadding
from .fuse_cat_linear import FuseCatLinear
from .fuse_linear_gelu import FuseLinearGelu
from .fuse_modulated_norm import FuseModulatedNorm
from .fuse_norm_rotary import FuseNormRotary
from .insert_reshards import InsertReshards
from .join_slices import JoinSlices
from .lower_reshards import LowerReshards
from .mark_skippable import MarkSkippable
from .offload_params import OffloadParams
from .pack_collectives import PackCollectives
from .plan_sharding import PlanSharding
from .planner.cost import Hardware
from .quantize_linear import Evaluate, QuantizeLinear
from .recognize_attention import RecognizeAttention
from .registry import DEFAULT, known_passes
from .select_attention_backend import SelectAttentionBackend
from .shard_params import ShardParams
from .sliding_tile_attention import SlidingTileAttention
from .split_invariant import SplitInvariant
from .tile_order import TileOrder


@dataclass(frozen=True)
class Target:
    """What a program is compiled for.

    Attributes:
        ranks: number of ranks.
        device: device type, e.g. ``"cuda"``.
        attention_backend: a registered name, a backend with its options, or ``"auto"``.
        quantization: format of linear layers, ``"fp8"`` or ``"int8"``; None for none.
        shard_params: whether ranks share the params that all of them need; None: where memory is the limit.
        offload_params: whether params stay in the host's memory and are fetched; None: where memory is the limit.
        memory: bytes of one device that the program may take; 0 for no limit.
        cache: threshold of first-block caching; None for no cache.
        evaluate: runs a program on the inputs that it is compiled for; passes measure with it. None: nothing to run.
        invariant: names of the program's inputs that stay the same over many calls.
        hardware: rates of the devices and their links.
        fastest: measures attention backends; None: ``auto`` goes by the order in which they are listed.
    """

    ranks: int = 1
    device: str = "cpu"
    attention_backend: attention.Wish = attention.AUTO
    quantization: str | None = None
    shard_params: bool | None = None
    offload_params: bool | None = None
    memory: int = 0
    cache: float | None = None
    evaluate: Evaluate | None = field(default=None, repr=False, compare=False)
    invariant: tuple[str, ...] = ()
    hardware: Hardware = field(default_factory=Hardware)
    fastest: attention.Fastest | None = field(default=None, repr=False, compare=False)


def default_pipeline(target: Target) -> list[ir.Pass]:
    """From a captured program to one with explicit collectives.

    Its passes preserve numerics, but for those that approximate because the target says so.
    """
    return [
        Canonicalize(),
        RecognizeAttention(),
        EliminateMask(backend=target.attention_backend, device=target.device),
        *_attention(target),
        *_approximations(target),
        FuseLinearGelu(),
        FoldPadding(),
        *([CacheBlocks(threshold=target.cache)] if target.cache is not None else []),
        ChooseMesh(ranks=target.ranks, hardware=target.hardware, device=target.device),
        PlanSharding(hardware=target.hardware, device=target.device),
        InsertReshards(),
        ExpandStatistics(),
        LowerReshards(),
        PackCollectives(),
        *([JoinSlices(), FuseCatLinear(), FuseNormRotary(), FuseModulatedNorm()] if target.device == "cuda" else []),
        *([SplitInvariant(inputs=" ".join(target.invariant))] if target.invariant else []),
        *_memory_savers(target),
        *([MarkSkippable()] if target.cache is not None else []),
    ]


def _attention(target: Target) -> list[ir.Pass]:
    asked = attention.wished(target.attention_backend)
    if isinstance(asked, attention.SlidingTile):
        return [
            SlidingTileAttention(options=asked, device=target.device),
            TileOrder(),
            SelectAttentionBackend(device=target.device, fastest=target.fastest),
        ]
    wish, device = target.attention_backend, target.device
    return [SelectAttentionBackend(backend=wish, device=device, fastest=target.fastest)]


def _memory_savers(target: Target) -> list[ir.Pass]:
    """Cheapest first: a piece comes from another rank sooner than from the host."""
    steps: list[ir.Pass] = []
    if target.shard_params is not False and target.ranks > 1:
        steps.append(ShardParams(always=target.shard_params is True, memory=target.memory, device=target.device))
    if target.offload_params is not False:
        steps.append(OffloadParams(always=target.offload_params is True, memory=target.memory, device=target.device))
    return steps


def _approximations(target: Target) -> list[ir.Pass]:
    if target.quantization is None:
        return []
    return [QuantizeLinear(format=target.quantization, device=target.device, evaluate=target.evaluate)]


def resolve_pipeline(passes: str | Sequence[ir.Pass | type[ir.Pass]] | None, target: Target) -> list[ir.Pass]:
    """The passes that ``passes`` stands for.

    Args:
        passes: None for the default, a text as above, or the passes themselves in the order in which they run.
        target: what the default pipeline compiles for.

    Raises:
        UnknownNameError: a name is not registered, or not in the pipeline that it is taken from.
        InvalidArgumentError: the text cannot be read, or an item is no pass.
    """
    if passes is None:
        return default_pipeline(target)
    if isinstance(passes, str):
        return _parse(passes, target)
    result: list[ir.Pass] = []
    for item in passes:
        step = item() if isinstance(item, type) and issubclass(item, ir.Pass) else item
        if not isinstance(step, ir.Pass):
            raise InvalidArgumentError(f"{item!r} is not a pass; expected instances of fastvideo.Pass, or a text")
        result.append(step)
    return result


_ITEM = re.compile(r"\s*(-?)([\w-]+)\s*(?:\{([^{}]*)\})?\s*(?:,|$)")


def _parse(text: str, target: Target) -> list[ir.Pass]:
    result: list[ir.Pass] = []
    has_default = False
    at = 0
    if not text.strip():
        raise InvalidArgumentError("an empty text names no passes", hint="use 'default'")
    while at < len(text):
        match = _ITEM.match(text, at)
        if not match:
            raise InvalidArgumentError(
                f"cannot read {text[at:]!r} in passes={text!r}; expected e.g. 'default,my-pass{{k=2}},-other-pass'"
            )
        at = match.end()
        minus, name, options = match.groups()
        if minus:
            _remove(result, name)
        elif name == DEFAULT and has_default:
            raise InvalidArgumentError(f"passes={text!r} has {DEFAULT!r} twice")
        elif name == DEFAULT:
            result += default_pipeline(target)
            has_default = True
        else:
            step = _make(name, options)
            result.insert(_position(result, step) if has_default else len(result), step)
    return result


def _make(name: str, options: str | None) -> ir.Pass:
    known = known_passes()
    if name not in known:
        raise UnknownNameError("pass", name, [DEFAULT, *known])
    pairs = [part.partition("=") for part in (options or "").split(",") if part.strip()]
    return known[name].with_options({key.strip(): value.strip() for key, _, value in pairs})


def _remove(passes: list[ir.Pass], name: str) -> None:
    present = [step.name for step in passes]
    if name not in present:
        raise UnknownNameError("pass to leave out", name, present)
    del passes[present.index(name)]


def _position(passes: Sequence[ir.Pass], step: ir.Pass) -> int:
    """Behind the last pass that leaves the program at the stage which ``step`` joins, and before it is placed."""
    stage = ir.Stage.CAPTURED
    position = 0
    for number, other in enumerate(passes):
        if isinstance(other, ChooseMesh | PlanSharding) and step.joins <= ir.Stage.CANONICAL:
            break
        stage = other.reaches if other.reaches is not None else stage
        if stage <= step.joins:
            position = number + 1
    return position
