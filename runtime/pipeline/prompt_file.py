"""Prompts that are kept in a text file."""

from __future__ import annotations

import os
from pathlib import Path

import fastvideo_ir as ir


def read_prompts(prompt_path: str | os.PathLike[str]) -> list[str]:
    """The prompts of a UTF-8 text file: one a line; blank lines are left out.

    Raises:
        InvalidArgumentError: the file cannot be read, or holds none.
    """
    path = Path(prompt_path).expanduser()
    if path.is_dir():
        raise ir.errors.InvalidArgumentError(
            f"the prompt file '{path}' is a folder", hint="name a text file with a prompt on each line"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ir.errors.InvalidArgumentError(
            f"the prompt file '{path}' does not exist", hint="check the path"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ir.errors.InvalidArgumentError(
            f"the prompt file '{path}' cannot be read as UTF-8 text: {error}", hint="check the file"
        ) from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ir.errors.InvalidArgumentError(f"the prompt file '{path}' is empty", hint="write a prompt on each line")
    return prompts
