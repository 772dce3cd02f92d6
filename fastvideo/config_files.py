"""Settings in YAML and JSON files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastvideo_ir.errors import InvalidArgumentError


def read_mapping(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """The mapping that a ``.yaml``, ``.yml`` or ``.json`` file holds.

    Raises:
        InvalidArgumentError: there is no such file, it cannot be read, or it is no mapping.
    """
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidArgumentError(f"the config file '{file}' does not exist", hint="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"the config file '{file}' cannot be read: {error}") from error
    try:
        entries = _parse(file, text)
    except ValueError as error:
        raise InvalidArgumentError(f"the config file '{file}' is damaged: {error}") from error
    if not isinstance(entries, dict):
        raise InvalidArgumentError(
            f"the config file '{file}' holds a {type(entries).__name__}; expected entries like `height: 480`"
        )
    return entries


def write_mapping(path: str | os.PathLike[str], entries: Mapping[str, Any]) -> None:
    """Write a mapping as YAML or JSON, by the file's ending; a file that is there is written over.

    Raises:
        InvalidArgumentError: another ending, or the file cannot be written.
    """
    file = Path(path).expanduser()
    if file.suffix == ".json":
        text = json.dumps(dict(entries), indent=2, ensure_ascii=False) + "\n"
    elif file.suffix in (".yaml", ".yml"):
        import yaml

        text = yaml.safe_dump(dict(entries), sort_keys=False, allow_unicode=True)
    else:
        raise InvalidArgumentError(f"'{file}' ends in {file.suffix!r}, expected .yaml, .yml or .json")
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidArgumentError(f"the config file '{file}' cannot be written: {error}") from error


def _parse(path: Path, text: str) -> Any:
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix in (".yaml", ".yml"):
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error
    raise ValueError(f"it ends in {path.suffix!r}, expected .yaml, .yml or .json")
