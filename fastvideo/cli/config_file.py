"""Settings of a run from a YAML or JSON file; what the command line says goes before them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastvideo_ir.errors import InvalidArgumentError, UnknownNameError


def read_config(path: Path, known: Iterable[str]) -> dict[str, Any]:
    """The entries of a config file by name, ``-`` and ``_`` alike.

    Args:
        path: a ``.yaml``, ``.yml`` or ``.json`` file that holds one mapping.
        known: names that an entry may have.

    Raises:
        InvalidArgumentError: there is no such file, it cannot be read, or it is no mapping.
        UnknownNameError: an entry has another name; tells the nearest.
    """
    entries = read_mapping(path)
    names = set(known)
    result = {str(key).replace("-", "_"): value for key, value in entries.items()}
    for name in result:
        if name not in names:
            raise UnknownNameError("config key", name, names)
    return result


def read_mapping(path: Path) -> dict[Any, Any]:
    """The mapping that a YAML or JSON file holds. Raises as :func:`read_config`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidArgumentError(f"the config file '{path}' does not exist", hint="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"the config file '{path}' cannot be read: {error}") from error
    try:
        entries = _parse(path, text)
    except ValueError as error:
        raise InvalidArgumentError(f"the config file '{path}' is damaged: {error}") from error
    if not isinstance(entries, dict):
        raise InvalidArgumentError(
            f"the config file '{path}' holds a {type(entries).__name__}; expected entries like `height: 480`"
        )
    return entries


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
