"""Passes and how they are run: in the order written, each timed, dumped and verified on demand."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, dataclass_transform

from .errors import FastVideoError, InvalidArgumentError, UnknownNameError
from .program import Program, Stage
from .text import print_program
from .verifier import verify


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Pass:
    """A rewrite of a program. A subclass is a frozen dataclass: its fields are its options.

    Class attributes:
        name: as written in pipelines, e.g. ``pack-collectives``.
        needs: the earliest stage it works at.
        reaches: the stage the program has afterwards; None where it stays.
        joins: where a pipeline written as text puts it: at the end of this stage.
        preserves_numerics: False for an opt-in pass that changes results beyond rounding.
    """

    name: ClassVar[str]
    needs: ClassVar[Stage] = Stage.CAPTURED
    reaches: ClassVar[Stage | None] = None
    joins: ClassVar[Stage] = Stage.CANONICAL
    preserves_numerics: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True, kw_only=True)(cls)

    def run(self, program: Program) -> None:
        """Change ``program`` in place, through a :class:`~fastvideo_ir.rewriter.Rewriter`."""
        raise NotImplementedError

    @property
    def approximates(self) -> str | None:
        """What this pass changes beyond rounding, in the words of a setting; None where it changes nothing."""
        return None if self.preserves_numerics else str(self)

    def exact(self) -> Pass | None:
        """The pass that stands here in the exact program; None for one that is left out of it."""
        return self if self.preserves_numerics else None

    def __str__(self) -> str:
        options = [
            f"{f.name}={getattr(self, f.name)}"
            for f in fields(self)  # type: ignore[arg-type]
            if f.repr and getattr(self, f.name) != f.default
        ]
        return self.name + ("{" + ",".join(options) + "}" if options else "")

    @classmethod
    def with_options(cls, options: dict[str, str]) -> Pass:
        """The pass with options given as text.

        Raises:
            UnknownNameError: no option has that name.
            InvalidArgumentError: a value cannot be read as the option's type.
        """
        known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
        values: dict[str, Any] = {}
        for key, text in options.items():
            if key not in known:
                raise UnknownNameError(f"option of pass {cls.name!r}", key, known)
            values[key] = _read_option(cls.name, key, text, known[key].default)
        return cls(**values)


class ObservingPass(Pass):
    """A pass that can make use of the inputs' values: it offers a program that computes what it wants to know of them.

    Who compiles for a call runs that *observer* on the call's inputs, and tells the pass what it found. The program
    then holds for calls of which the observer finds the same.
    """

    def observer(self, program: Program) -> Program | None:
        """What computes the values from the inputs of ``program``, on which this pass will run; None: nothing is asked.

        Each output is one number, an int64 scalar.
        """
        raise NotImplementedError

    def told(self, found: tuple[int, ...]) -> ObservingPass:
        """This pass, with what its observer has found as an option."""
        raise NotImplementedError

    def meanings(self, program: Program) -> tuple[str, ...]:
        """What a pass that was told takes for granted of ``program``, in a user's words."""
        raise NotImplementedError


def _read_option(pass_name: str, key: str, text: str, default: Any) -> Any:
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if kind in (int, float, str):
            return kind(text)
    except (ValueError, KeyError):
        pass
    raise InvalidArgumentError(f"option {key}={text!r} of pass {pass_name!r} is not of type {kind.__name__}")


class Instrument(Protocol):
    """Watches passes run."""

    def before(self, number: int, step: Pass, program: Program) -> None: ...

    def after(self, number: int, step: Pass, program: Program, seconds: float) -> None: ...


class Timing:
    """Remembers how long each pass took."""

    def __init__(self) -> None:
        self.seconds: list[tuple[str, float]] = []

    def before(self, number: int, step: Pass, program: Program) -> None: ...

    def after(self, number: int, step: Pass, program: Program, seconds: float) -> None:
        self.seconds.append((str(step), seconds))


class Dump:
    """Writes ``NN-pass.fvir`` and ``NN-pass.diff`` after each pass into a directory, and ``00-captured.fvir`` first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._text = ""

    def before(self, number: int, step: Pass, program: Program) -> None:
        if number == 1:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._text = print_program(program)
            (self._directory / "00-captured.fvir").write_text(self._text)

    def after(self, number: int, step: Pass, program: Program, seconds: float) -> None:
        text = print_program(program)
        stem = f"{number:02d}-{step.name}"
        diff = difflib.unified_diff(
            self._text.splitlines(keepends=True), text.splitlines(keepends=True), "before", "after", n=1
        )
        (self._directory / f"{stem}.fvir").write_text(text)
        (self._directory / f"{stem}.diff").write_text("".join(diff))
        self._text = text


class Verification:
    """Runs the verifier after each pass."""

    def before(self, number: int, step: Pass, program: Program) -> None: ...

    def after(self, number: int, step: Pass, program: Program, seconds: float) -> None:
        verify(program)


def run_passes(program: Program, passes: Sequence[Pass], instruments: Iterable[Instrument] = ()) -> None:
    """Run ``passes`` in order, in place.

    Raises:
        InvalidArgumentError: a pass stands before the stage it needs.
        FastVideoError: a pass failed; the message names it.
    """
    watchers = list(instruments)
    for number, step in enumerate(passes, 1):
        if program.stage < step.needs:
            raise InvalidArgumentError(
                f"pass {step.name!r} needs stage {step.needs.name}, the program is at {program.stage.name}",
                hint="passes run in the order in which they are written",
            )
        for watcher in watchers:
            watcher.before(number, step, program)
        program.findings.clear()
        start = time.perf_counter()
        try:
            step.run(program)
            if step.reaches is not None:
                program.stage = max(program.stage, step.reaches)
            seconds = time.perf_counter() - start
            for watcher in watchers:
                watcher.after(number, step, program, seconds)
        except FastVideoError as error:
            error.add_note(f"in pass {step}")
            raise
