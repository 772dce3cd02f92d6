"""Which device ``device=None`` is, and how many GPUs may be asked for."""

import pytest
import torch

from fastvideo.runtime import devices
from fastvideo.runtime.devices import rank_device, resolve_device
from fastvideo_ir.errors import InvalidArgumentError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


@pytest.mark.parametrize("gpus", [0], indirect=True)
def test_cpu_is_said_once(gpus: None, capsys: pytest.CaptureFixture[str]) -> None:
    devices._say_cpu_is_used.cache_clear()
    assert resolve_device(None, 3) == resolve_device(None, 1) == torch.device("cpu")
    assert capsys.readouterr().err == "fastvideo: no CUDA device found, running on the CPU\n"
    assert resolve_device("cpu", 64) == torch.device("cpu")
    assert capsys.readouterr().err == ""
    with pytest.raises(InvalidArgumentError, match="torch sees no CUDA device"):
        resolve_device("cuda", 1)


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_gpus_are_counted(gpus: None) -> None:
    assert resolve_device(None, 2) == torch.device("cuda", 0)
    assert resolve_device("cuda:1", 1) == torch.device("cuda", 1)
    with pytest.raises(InvalidArgumentError, match="num_gpus=4 was asked for, but this machine has 2 CUDA devices"):
        resolve_device(None, 4)
    with pytest.raises(InvalidArgumentError, match="num_gpus=2 from cuda:1 on was asked for"):
        resolve_device("cuda:1", 2)


@pytest.mark.parametrize("num_gpus", [0, -1, True, 1.5, "2"])
def test_num_gpus_is_a_positive_integer(num_gpus: int) -> None:
    with pytest.raises(InvalidArgumentError, match="at least 1"):
        resolve_device("cpu", num_gpus)


def test_other_devices() -> None:
    for device in ("meta", "a gpu"):
        with pytest.raises(InvalidArgumentError, match="device"):
            resolve_device(device, 1)


def test_rank_device() -> None:
    assert rank_device(torch.device("cuda", 1), 2) == torch.device("cuda", 3)
    assert rank_device(torch.device("cpu"), 2) == torch.device("cpu")
