"""Which backend runs a site."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TypeAlias

from fastvideo_ir.errors import BackendUnavailableError, UnknownNameError

from .base import AttentionBackend, AttentionSite, No
from .measured import Fastest
from .registry import backends

AUTO = "auto"
Wish: TypeAlias = str | AttentionBackend
"""What a user asks for: ``auto``, a registered name, or a registered backend with options of its own."""


@dataclass(frozen=True)
class Choice:
    """The backend of a site, and why those asked before it were not taken."""

    backend: AttentionBackend
    refusals: tuple[tuple[str, str], ...] = ()


def named(name: str) -> AttentionBackend:
    """The backend called ``name``.

    Raises:
        UnknownNameError: there is none; lists those there are.
    """
    known = backends()
    if name not in known:
        raise UnknownNameError("attention backend", name, known)
    return known[name]


def wished(wish: Wish) -> AttentionBackend | None:
    """The backend that a wish names; None for ``auto``.

    Raises:
        UnknownNameError: no backend has that name.
    """
    if isinstance(wish, str):
        return None if wish == AUTO else named(wish)
    if type(named(wish.name)) is not type(wish):
        raise UnknownNameError(
            "attention backend", type(wish).__name__, [type(b).__name__ for b in backends().values()]
        )
    return wish


def choose(
    site: AttentionSite,
    wish: Wish = AUTO,
    among: Collection[str] | None = None,
    fastest: Fastest | None = None,
) -> Choice:
    """The backend for ``site``: the one wished for, or an exact one that supports it.

    Args:
        site: the attention.
        wish: what the user asks for.
        among: names that the model's author allows; None for all.
        fastest: measures those that support it, and the fastest is taken; None: the first one that is preferred is.

    Raises:
        UnknownNameError: no backend has that name.
        BackendUnavailableError: the named backend cannot run the site, or none can; with the reasons.
    """
    asked = wished(wish)
    if asked is not None:
        answer = allowed(asked, among) or asked.answer(site)
        if isinstance(answer, No) and asked.partial:
            other = choose(site, among=among, fastest=fastest)
            rest = (refusal for refusal in other.refusals if refusal[0] != asked.name)
            return replace(other, refusals=((asked.name, answer.reason), *rest))
        if isinstance(answer, No):
            raise BackendUnavailableError(
                f"attention backend {asked.name} cannot run the attention{_where(site)}: {answer.reason}",
                hint="name another backend, or leave the choice to 'auto'",
            )
        return Choice(asked)
    refusals: list[tuple[str, str]] = []
    able: list[tuple[AttentionBackend, bool]] = []
    for backend in backends().values():
        answer = allowed(backend, among) or (
            backend.answer(site) if backend.exact else No("not exact; runs only when named")
        )
        if isinstance(answer, No):
            refusals.append((backend.name, answer.reason))
            continue
        able.append((backend, answer.preferred))
        if fastest is None and answer.preferred:
            break
    if able:
        first = next((backend for backend, preferred in able if preferred), able[0][0])
        if fastest is None or len(able) == 1:
            return Choice(first, tuple(refusals))
        return _fastest(site, first, [backend for backend, _ in able], refusals, fastest)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refusals)
    raise BackendUnavailableError(f"no attention backend can run the attention{_where(site)}: {reasons}")


def _fastest(
    site: AttentionSite,
    first: AttentionBackend,
    able: list[AttentionBackend],
    refusals: list[tuple[str, str]],
    fastest: Fastest,
) -> Choice:
    """The one that takes least time; ``first`` where it is not slower than that."""
    seconds = fastest.seconds(site, able)
    best = min(able, key=lambda backend: (seconds[backend.name], backend is not first))
    slower = [
        (backend.name, f"{seconds[backend.name] / seconds[best.name]:.2f} × the time of {best.name}, as measured")
        if math.isfinite(seconds[backend.name])
        else (backend.name, "its kernel failed when it was measured")
        for backend in able
        if backend is not best and math.isfinite(seconds[best.name])
    ]
    return Choice(best, (*refusals, *slower))


def allowed(backend: AttentionBackend, among: Collection[str] | None) -> No | None:
    """The refusal of a backend that is not among those allowed; None if it is."""
    return None if among is None or backend.name in among else No(f"the model allows {', '.join(among)} alone")


def _where(site: AttentionSite) -> str:
    return f" at {site.location}" if site.location else ""
