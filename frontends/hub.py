"""From what the user gave, a folder or a hub id, to a folder on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import fastvideo_ir as ir

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Everything a component needs, and no pickles or Python code. Chat templates (.jinja) run in Transformers' sandbox.
SHIPPED = "fastvideo.json"
"""Best settings that the authors of weights ship with them."""
OWNER = "fastvideo"
"""Of ids that are found without the hub."""
BUILT_IN = Path(__file__).parent / "weights"
"""Trained pipelines that come with the package; ``fastvideo/NAME`` names one."""
_CONFIG_FILES = ("*.json",)
_ALL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def local_folder(path_or_id: str | os.PathLike[str]) -> Path | None:
    """The folder that is meant, or None if it can only be a hub id.

    Raises:
        PipelineLoadError: it is neither a folder here nor of the form of a hub id.
        UnknownNameError: it is of the form of a pipeline that comes with the package, and none is called so.
    """
    if not isinstance(path_or_id, str | os.PathLike) or not os.fspath(path_or_id):
        raise ir.errors.PipelineLoadError(
            f"a pipeline is named by a folder or a hub id, got {path_or_id!r}",
            hint="give a folder in Diffusers layout, or an id of the form owner/name",
        )
    text = os.fspath(path_or_id)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ir.errors.PipelineLoadError(
            f"{text!r} is a file, not a pipeline folder", hint="give the folder that holds model_index.json"
        )
    if text.startswith(f"{OWNER}/"):
        if text not in built_in():
            raise ir.errors.UnknownNameError("built-in pipeline", text, built_in())
        return BUILT_IN / folder.name
    if not is_id(text):
        raise ir.errors.PipelineLoadError(
            f"{text!r} is neither a folder on this machine nor a hub id",
            hint="give a folder in Diffusers layout, or an id of the form owner/name",
        )
    return None


def built_in() -> list[str]:
    """Ids of the pipelines that need no download."""
    return sorted(f"{OWNER}/{folder.name}" for folder in BUILT_IN.iterdir() if folder.is_dir())


def is_id(text: str) -> bool:
    """Whether a text is of the form of a hub id."""
    return _HUB_ID.fullmatch(text) is not None


def fetch_model_index(repo_id: str) -> Path:
    """Download what names the pipeline alone, so that one nobody can run costs no gigabytes."""
    return _snapshot(repo_id, ["model_index.json", SHIPPED])


def fetch_components(repo_id: str, roles: Iterable[str], *, weights: bool, skip: Collection[str] = ()) -> Path:
    """Download the components named ``roles``, or only what describes them; returns the folder.

    Args:
        repo_id: the hub id.
        roles: names of the components.
        weights: whether their weights are wanted too.
        skip: roles whose weights are not.
    """
    wanted = [
        f"{role}/{kind}" for role in roles for kind in (_ALL_FILES if weights and role not in skip else _CONFIG_FILES)
    ]
    return _snapshot(repo_id, ["model_index.json", SHIPPED, *wanted])


def fetch_adapter(repo_id: str, weight_name: str | None, names: Sequence[str]) -> Path:
    """Download one safetensors file of a repository, with the config that may lie beside it; returns its path.

    Args:
        repo_id: ``owner/name``.
        weight_name: the file; None takes that of ``names`` which is there, or else the only one.
        names: the usual names of the file.

    Raises:
        PipelineLoadError: there is no such file, or several that may be meant.
    """
    if weight_name is None:
        from huggingface_hub import HfApi

        with _named_errors(repo_id):
            files = [name for name in HfApi().list_repo_files(repo_id) if name.endswith(".safetensors")]
        usual = [name for name in names if name in files]
        if not usual and len(files) != 1:
            raise ir.errors.PipelineLoadError(
                f"{repo_id!r} has {len(files)} safetensors files{': ' if files else ''}{', '.join(files[:5])}",
                hint="name one with weight_name=" if files else "pickles are never loaded",
            )
        weight_name = (usual or files)[0]
    file = _snapshot(repo_id, [weight_name, str(Path(weight_name).parent / "adapter_config.json")]) / weight_name
    if not file.is_file():
        raise ir.errors.PipelineLoadError(f"{repo_id!r} has no file {weight_name!r}", hint="check the name")
    return file


def _snapshot(repo_id: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    with _named_errors(repo_id):
        return Path(snapshot_download(repo_id, allow_patterns=patterns))


@contextmanager
def _named_errors(repo_id: str) -> Iterator[None]:
    """What the hub's client raises, as one line that names the repository."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise ir.errors.PipelineLoadError(
            f"{repo_id!r} is gated on the hub",
            hint="accept its terms on its hub page and log in with `hf auth login`",
        ) from error
    except RepositoryNotFoundError as error:
        raise ir.errors.PipelineLoadError(
            f"{repo_id!r} is neither a folder on this machine nor a repository on the hub",
            hint="check the spelling; a private repository needs `hf auth login`",
        ) from error
    except OSError as error:  # no connection, no disk space: the hub's own errors are OSErrors too
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ir.errors.PipelineLoadError(
            f"{repo_id!r} is not a folder on this machine and could not be downloaded: {reason}",
            hint="check the path, or the connection to the hub",
        ) from error
