"""The bounds that every class of the zoo keeps in every setting, and the exceptions, each with what forces it."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

from ..e2e.measuring import MOST_ATTENTION, MOST_WORK
from .blocks import Division, exchanged, steady, stream
from .cases import ZooCase
from .meshes import Setting
from .running import ZooRow
from .zoo import GROUPS, NOT_DENOISERS

ERROR, WORK, ATTENTION, GATHER = "error", "work", "attention", "gather"
DITS = {case for name, cases in GROUPS.items() for case in cases if name not in NOT_DENOISERS}
UNEVEN = 1.15
"""How far the largest of uneven pieces may exceed an even one; heads that are cut less evenly are no alternative."""

REFUSED: dict[str, dict[str, str]] = {}
"""Class to a pattern of settings that are refused, to how the error begins. At present nothing is refused."""

_ONE_HEAD = "attention of one head, which tp cannot cut"
_AMONG_CONVOLUTIONS = "one small attention among convolutions: to divide it, their rows would have to be exchanged"
_GROUPED = "attention whose keys have four heads: fewer than two for a rank"
EXCEPTIONS: dict[tuple[str, str, str], str] = {
    ("HunyuanVideoDecoder", "tp=*", ATTENTION): _ONE_HEAD,
    ("WanDecoder", "tp=*", ATTENTION): _ONE_HEAD,
    ("HunyuanVideoDecoder", "sp=*", ATTENTION): _AMONG_CONVOLUTIONS,
    ("WanDecoder", "sp=3", ATTENTION): _AMONG_CONVOLUTIONS,
    ("Lumina2", "sp=3", GATHER): _GROUPED,
    ("NucleusMoE", "sp=3", GATHER): _GROUPED,
    ("NucleusMoE", "sp=4", GATHER): _GROUPED,
    ("Cosmos3Omni", "sp=3", GATHER): _GROUPED,
    ("OmniGen", "sp=3", GATHER): "attention: one gather of keys and values instead of two exchanges",
    ("HiDream", "sp=3", GATHER): "fv.eager_call: experts that stay Python read whole tokens",
    ("Flux3", "sp=3", GATHER): "attention over ten words: one gather of keys and values instead of two exchanges",
    ("Proteina", "sp=3", GATHER): "products over pairs of tokens, one side of which must be whole",
}
"""Class, pattern of settings and bound to the op that forces it. An error is never among them."""


def broken(case: ZooCase, setting: Setting, row: ZooRow) -> set[str]:
    """The bounds that a row does not keep."""
    found = set()
    if row.error > case.tolerance:
        found.add(ERROR)
    if row.work > MOST_WORK:
        found.add(WORK)
    if row.attention is not None and row.attention > MOST_ATTENTION:
        found.add(ATTENTION)
    if case in DITS and token_gathers(setting, row):
        found.add(GATHER)
    return found


def token_gathers(setting: Setting, row: ZooRow) -> list[str]:
    """Blocks that gather a stream of tokens, though each rank has two heads and exchanging them takes fewer bytes.

    On axes that divide tokens alone: where weights are cut, a gather is one half of the sum over the ranks.
    """
    parallel = setting.parallel
    if parallel.tp > 1:
        return []
    division = Division(parallel.sp, parallel.num_ranks // parallel.sp)
    return [
        block.path
        for block in steady(row.blocks)
        if any(numel >= stream(block) / 2 for numel in block.gathers)
        and stream(block)
        and can_exchange(setting.heads, parallel.sp)
        and block.bytes > UNEVEN * exchanged(block, division)
    ]


def can_exchange(heads: int, ranks: int) -> bool:
    """Whether each rank gets two heads, and none many more than its share."""
    return heads >= 2 * ranks and math.ceil(heads / ranks) * ranks <= UNEVEN * heads


def expected(case: ZooCase, setting: Setting) -> set[str]:
    """The bounds that a class is known not to keep."""
    known = {bound for name, where, bound in EXCEPTIONS if name == case.name and fnmatchcase(str(setting), where)}
    assert ERROR not in known
    return known


def refusal(case: ZooCase, setting: Setting) -> str | None:
    """How the error begins with which a setting is refused, if it is."""
    patterns = REFUSED.get(case.name, {})
    return next((text for where, text in patterns.items() if fnmatchcase(str(setting), where)), None)
