"""What every test gets: one thread, a fixed seed, no network, no settings from outside, and three markers.

@pytest.mark.gpu            skipped where torch sees no CUDA device; gpu(2) asks for two
@pytest.mark.torch("2.13")  skipped where torch is older; 2.11 is the oldest that we support
@pytest.mark.kernel_loops   skipped where Triton's interpreter cannot run a kernel's loop
"""

from __future__ import annotations

import gc
import importlib.util
import os
import random
from importlib import metadata

# Before torch is imported; the ranks that a test starts inherit both.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before a kernel is defined: without a GPU they are interpreted

torch.set_num_threads(1)

# Same examples in every run: a red CI must be red at home. A deadline would fail on a busy machine only.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu(count=1): needs that many CUDA devices")
    config.addinivalue_line("markers", "torch(version): needs torch of that version or newer")
    config.addinivalue_line("markers", "kernel_loops: runs loops of kernels under Triton's interpreter")


def pytest_collection_finish() -> None:
    """What imports leave behind is never garbage: collections that look at it take 7 % of the time of a capture."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = missing_gpus(item) or missing_torch(item) or missing_loops(item)
    if reason:
        pytest.skip(reason)


def missing_gpus(item: pytest.Item) -> str | None:
    """Why the GPUs here are not enough for this test, or None."""
    marker = item.get_closest_marker("gpu")
    if marker is None:
        return None
    wanted = marker.args[0] if marker.args else marker.kwargs.get("count", 1)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return None if found >= wanted else f"needs {wanted} CUDA device(s), found {found}"


def missing_torch(item: pytest.Item) -> str | None:
    """Why the torch here is too old for this test, or None."""
    marker = item.get_closest_marker("torch")
    if marker is None or torch_is_at_least(marker.args[0]):
        return None
    return f"needs torch {marker.args[0]} or newer, found {torch.__version__}"


def missing_loops(item: pytest.Item) -> str | None:
    """Why kernels with loops cannot be interpreted here, or None.

    The interpreter of Triton 3.6 reads a loop's bound with ``int(array([n]))``, which NumPy refuses from 2.4 on.
    """
    if item.get_closest_marker("kernel_loops") is None:
        return None
    if importlib.util.find_spec("triton") is None:
        return "needs triton"
    triton = metadata.version("triton")
    works = TorchVersion(triton) >= "3.7" or TorchVersion(np.__version__) < "2.4"
    return None if works else f"triton {triton} cannot interpret loops with numpy {np.__version__}"


def torch_is_at_least(version: str) -> bool:
    """Whether the torch here is of this version or newer; local parts such as ``+cpu`` do not count."""
    found = TorchVersion(torch.__version__.split("+")[0])
    return bool(found >= version)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's ``FASTVIDEO_*`` variables must not decide a test, and neither must what earlier runs have kept."""
    for name in [name for name in os.environ if name.startswith("FASTVIDEO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FASTVIDEO_CACHE", "0")
