"""Settings of a run from a YAML or JSON file; what the command line says goes before them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastvideo_ir.errors import UnknownNameError

from ..config_files import read_mapping


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
