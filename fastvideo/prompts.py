"""Which prompts a call is for, and how many of them are served at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import fastvideo_ir as ir

from .runtime.pipeline.prompt_file import read_prompts
from .settings import Settings


def prompts_of(
    prompt: str | Sequence[str] | None, prompt_path: str | os.PathLike[str] | None
) -> tuple[Sequence[str | None], bool]:
    """The prompts, or None for the one that the sampling parameters hold; and whether the result is a list.

    Raises:
        InvalidArgumentError: there are none, or both a prompt and a file.
    """
    if prompt is not None and prompt_path is not None:
        raise ir.errors.InvalidArgumentError("both a prompt and a prompt file were given", hint="give one of them")
    if prompt_path is not None:
        prompts = read_prompts(prompt_path)
        return prompts, len(prompts) > 1
    if isinstance(prompt, list | tuple):
        if not prompt:
            raise ir.errors.InvalidArgumentError("the list of prompts is empty", hint="say in words what to show")
        return prompt, True
    return [prompt], False  # type: ignore[list-item]  # anything else is refused by the checks of a request


def most_at_a_time(settings: Settings) -> int:
    """How many videos are made at a time if there are prompts enough.

    As many as ``dp`` says where the mesh is pinned; otherwise one per rank, since ranks that have a video each exchange
    nothing. One where a cache decides for a whole batch which blocks are left out: then a video would depend on those
    made with it.
    """
    if settings.parallel is not None:
        return samples_pinned(settings)
    return 1 if settings.cache is not None else settings.num_ranks


def samples_pinned(settings: Settings) -> int:
    """Of how many videos a call of the denoiser must hold samples, by the mesh that is asked for."""
    return settings.parallel.dp if settings.parallel is not None else 1


def groups(count: int, settings: Settings) -> Iterator[range]:
    """Which of ``count`` prompts are served together.

    As many as may be at a time; of those that remain so many that the ranks can be divided evenly among them.
    """
    most, start = most_at_a_time(settings), 0
    while start < count:
        rest = count - start
        if rest >= most or settings.parallel is not None:
            size = min(most, rest)
        else:
            size = max(size for size in range(1, rest + 1) if most % size == 0)
        yield range(start, start + size)
        start += size


def describe(settings: Settings) -> str:
    """For reports: what becomes of several prompts."""
    most = most_at_a_time(settings)
    if most == 1:
        return "prompts\n  one at a time, on all ranks"
    told = "as dp says" if settings.parallel is not None else "one per rank"
    return f"prompts\n  of several up to {most} at a time, {told}: a denoising step is one call for all of them"
