"""Modules with their weights: Diffusers models as memory maps, Transformers models by their own loader."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastvideo_ir as ir

from . import safetensors_files


def load_diffusers_model(cls: Any, folder: Path, files: tuple[Path, ...], dtype: torch.dtype) -> nn.Module:
    """A Diffusers model on CPU, in eval mode, without gradients.

    Weights whose dtype on disk is the one asked for stay memory maps of the files, so that a model costs
    no memory until its weights are used and ranks on one host share the pages. The others are cast.
    Modules that the class keeps in float32 stay in float32.

    Raises:
        PipelineLoadError: weights are missing, unexpected, or of another shape than the config says.
    """
    with _parameters_on_meta():
        model = _from_config(cls, folder)
    keep_fp32 = set(getattr(cls, "_keep_in_fp32_modules", None) or ())
    ignored = [re.compile(pattern) for pattern in getattr(cls, "_keys_to_ignore_on_load_unexpected", None) or ()]

    assign_weights(model, files, dtype, f"'{folder}'", keep_fp32, ignored)
    return model.eval().requires_grad_(False)


def assign_weights(
    model: nn.Module,
    files: tuple[Path, ...],
    dtype: torch.dtype,
    where: str,
    keep_fp32: Collection[str] = (),
    ignored: Collection[re.Pattern[str]] = (),
) -> None:
    """Put the weights of safetensors files in the place of a model's own, all of them and no others.

    Args:
        model: may be on the meta device.
        files: all of its weights.
        dtype: of floating point weights; those that have it on disk stay memory maps.
        where: what the weights come from, for error texts.
        keep_fp32: parts of names whose weights are float32 whatever ``dtype`` is.
        ignored: names that the files may have and the model does not.

    Raises:
        PipelineLoadError: weights are missing, unexpected, or of another shape.
    """
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in safetensors_files.read(files):
        if name not in wanted:
            if any(pattern.search(name) for pattern in ignored):
                continue
            raise _mismatch(where, f"{name!r} in the weights is no parameter of {type(model).__name__}")
        if tuple(tensor.shape) != wanted[name]:
            raise _mismatch(where, f"{name!r} is {tuple(tensor.shape)}, the config says {wanted[name]}")
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32 if set(keep_fp32).intersection(name.split(".")) else dtype)
        weights[name] = tensor
    missing = sorted(wanted.keys() - weights.keys())
    if missing:
        raise _mismatch(where, f"the weights lack {_some(missing)}")
    model.load_state_dict(weights, strict=True, assign=True)


def load_transformers_model(cls: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    """A Transformers model on CPU, in eval mode, without gradients.

    Raises:
        PipelineLoadError: weights are missing or of another shape than the config says; Transformers itself
            would initialise those at random.
    """
    with _quiet_transformers():
        try:
            model, info = cls.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they are looked at below
                output_loading_info=True,
            )
        except Exception as error:
            raise _cannot_build(cls, folder, error) from error
    if info["missing_keys"]:
        raise _mismatch(f"'{folder}'", f"the weights lack {_some(sorted(info['missing_keys']))}")
    if info["mismatched_keys"]:
        names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"])
        raise _mismatch(f"'{folder}'", f"the config says another shape for {_some(names)}")
    loaded: nn.Module = model
    return loaded.eval().requires_grad_(False)


def _from_config(cls: Any, folder: Path) -> nn.Module:
    try:
        model: nn.Module = cls.from_config(cls.load_config(folder, local_files_only=True))
    except Exception as error:  # a config with wrong values fails in any way the model's constructor may
        raise _cannot_build(cls, folder, error) from error
    return model


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Its load report and progress bar say over many lines what our errors say in one."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Every parameter made inside is on the meta device; buffers stay real, as some are computed, not stored."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None:
            param = nn.Parameter(param.data.to("meta"), requires_grad=False)
        register(module, name, param)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _cannot_build(cls: type, folder: Path, error: Exception) -> ir.errors.PipelineLoadError:
    reason = (str(error).splitlines() or [""])[0]
    return ir.errors.PipelineLoadError(
        f"no {cls.__name__} can be built from '{folder}': {type(error).__name__}: {reason}",
        hint="its config.json is damaged, or made for another version of the library",
    )


def _mismatch(where: str, what: str) -> ir.errors.PipelineLoadError:
    return ir.errors.PipelineLoadError(
        f"the weights in {where} do not fit its config: {what}",
        hint="take weights and config from the same checkpoint",
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
