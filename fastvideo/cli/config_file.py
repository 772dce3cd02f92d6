"""Settings of a run from a YAML or JSON file; what the command line says goes before them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastvideo_ir.errors import InvalidArgumentError, UnknownNameError

from ..config_files import read_mapping


def read_config(path: Path, known: Iterable[str], short: Mapping[str, str]) -> dict[str, Any]:
    """The entries of a config file by name, ``-`` and ``_`` alike.

    Args:
        path: a ``.yaml``, ``.yml`` or ``.json`` file that holds one mapping.
        known: names that an entry may have.
        short: second names of some of them, as the command line has them.

    Raises:
        InvalidArgumentError: there is no such file, it cannot be read, it is no mapping, or names something twice.
        UnknownNameError: an entry has another name; tells the nearest.
    """
    entries = read_mapping(path)
    names = set(known)
    result: dict[str, Any] = {}
    for key, value in entries.items():
        given = str(key).replace("-", "_")
        name = short.get(given, given)
        if name not in names:
            raise UnknownNameError("config key", name, names)
        if name in result:
            raise InvalidArgumentError(f"the config file {str(path)!r} says {name} twice: {str(key)!r} is the same")
        result[name] = value
    return result
