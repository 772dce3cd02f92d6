"""The bounds that every class of the zoo keeps in every setting, and the exceptions, each with what forces it."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

from ..e2e.measuring import MOST_ATTENTION, MOST_WORK
from .cases import ZooCase
from .gathers import TokenGather
from .meshes import Setting
from .running import ZooRow
from .zoo import GROUPS, NOT_DENOISERS

ERROR, WORK, ATTENTION, GATHER = "error", "work", "attention", "gather"
DITS = {case for name, cases in GROUPS.items() for case in cases if name not in NOT_DENOISERS}
UNEVEN = 1.15
"""How far the largest of uneven pieces may exceed an even one; heads that are cut less evenly are no alternative."""

REFUSED: dict[str, dict[str, str]] = {}
"""Class to a pattern of settings that are refused, to how the error begins. At present nothing is refused."""

_ONE_ROW = "linear of the timestep's one row, against few tokens: its weight stays whole on sp"
_CAUSAL = "causal attention, of which heads alone can be cut: 12 on 8 ranks"
_ROUTED = "index by the router's choice reads all tokens; what else reads the gather would take 2 % less without"
_ONE_HEAD = "attention of one head, under 2 % of the work: sp cuts its tokens, and tp the channels around it"
EXCEPTIONS: dict[tuple[str, str, str], str] = {
    ("T5Film", "sp=[48]*", WORK): _ONE_ROW,
    ("AceStep", "sp=8", WORK): _ONE_ROW,
    ("MiniMaxMusic3Depth", "?p=8, 12 heads", ATTENTION): _CAUSAL,
    ("NucleusMoE", "sp=2 tp=2", GATHER): _ROUTED,
    ("HunyuanVideoDecoder", "sp=[24] tp=2", ATTENTION): _ONE_HEAD,
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
    if case in DITS and any(gather.verdict == "dearer" for gather in unwanted(setting, row)):
        found.add(GATHER)
    return found


def unwanted(setting: Setting, row: ZooRow) -> list[TokenGather]:
    """Gathers of the token stream that are not cheaper than doing without, where ranks could have heads instead."""
    parallel = setting.parallel
    if not can_exchange(setting.heads, parallel.num_ranks // parallel.cfg):
        return []
    return [gather for gather in row.gathers if gather.verdict != "cheaper"]


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
