"""``fastvideo plan``, ``models`` and ``doctor``: what they print, as text and as JSON, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastvideo.cli import main
from fastvideo.frontends.families import FAMILIES
from fastvideo.passes.planner.cost import Hardware
from fastvideo.passes.planner.hardware import known_hardware, named_hardware

WAN = "diffusers:WanTransformer3DModel"
SMALL = {"num_attention_heads": 8, "attention_head_dim": 12, "num_layers": 4, "ffn_dim": 64, "text_dim": 32}
SHAPES = [
    *("--shape", "hidden_states=1,16,5,8,12", "--shape", "timestep=1:int64"),
    *("--shape", "encoder_hidden_states=1,7,32"),
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL))
    return path


def planned(capfd: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """The one program of a plan that is printed as JSON."""
    assert main(["plan", *words, "--json", "-"]) == 0, capfd.readouterr().err
    (program,) = json.loads(capfd.readouterr().out)["programs"]
    return dict(program)


def test_plan_without_weights(config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--model", WAN, "--config", str(config), *SHAPES, "--num-gpus", "8", "--json", str(tmp_path / "plan.json")]
    assert main(["plan", *words]) == 0
    out, err = capfd.readouterr()
    assert err == "" and out.startswith("WanTransformer3DModel on 8 ranks (planned, ")
    assert "hidden_states: bf16[1, 16, 5, 8, 12], timestep: i64[1], encoder_hidden_states: bf16[1, 7, 32]" in out
    assert "mesh(sp=8)" in out and " × blocks." in out and "whichever backend runs there" in out
    (program,) = json.loads((tmp_path / "plan.json").read_text())["programs"]
    assert program["verified"] == "not verified" and len(program["flops_per_rank"]) == 8
    assert max(program["flops_per_rank"]) < program["flops"] / 4


def test_plan_obeys_pins_dtype_and_hardware(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--model", WAN, "--config", str(config), *SHAPES]
    half = planned(capfd, *words, "--parallel", "tp=2", "--hardware", "h200")
    full = planned(capfd, *words, "--parallel", "tp=2", "--hardware", "l40s", "--dtype", "float32")
    assert half["mesh"] == full["mesh"] == "mesh(tp=2)"
    assert (half["step"]["hardware"], full["step"]["hardware"]) == ("H200", "L40S")
    assert full["step"]["one_rank_seconds"] > 4 * half["step"]["one_rank_seconds"]
    assert full["param_bytes_per_rank"][0] > 1.6 * half["param_bytes_per_rank"][0]  # some stay in float32 anyway


def test_plan_of_a_pipeline_folder(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    size = ["--height", "64", "--width", "96", "--num-frames", "9"]
    program = planned(capfd, "--model", str(folder), *size, "--num-gpus", "2")
    latents, timestep, text = program["inputs"]
    assert latents.endswith("[1, 16, 3, 8, 12]") and timestep == "timestep: i64[1]" and "encoder_hidden_states" in text
    by_file = ["--model", str(folder / "transformer/config.json"), "--num-gpus", "2"]
    shapes = [f"--shape={item.replace(': bf16[', '=').replace(' ', '').rstrip(']')}" for item in (latents, text)]
    named = planned(capfd, *by_file, *shapes, "--shape", "timestep=1:int64", "--invariant", "encoder_hidden_states")
    assert named["flops"] == program["flops"]
    assert named["invariant"] == program["invariant"] and program["invariant"]["inputs"] == ["encoder_hidden_states"]


class Branching(nn.Module):
    """Reads a value of a tensor."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum().item() < 1e9 else x


class Odd:
    """No module."""


HERE = __name__


def test_models_that_read_values_need_materialize(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--model", f"{HERE}:Branching", "--shape", "x=1,40,8"]
    assert main(["plan", *words]) == 1
    err = capfd.readouterr().err
    assert err.startswith("error: Branching cannot be captured from shapes alone: ") and err.count("\n") == 1
    assert "--materialize makes random weights on the CPU for them" in err
    program = planned(capfd, *words, "--materialize", "--dtype", "float32")
    assert program["capture"] == "real-values" and program["flops"] == 2 * 40 * 8 * 8


REFUSALS: list[tuple[list[str], int, str]] = [
    (["--model", f"{HERE}:Branching", "--shape", "y=1,2"], 2, "unknown argument of Branching.forward 'y'; known: x"),
    (["--model", f"{HERE}:Branching", "--arg", "y=1"], 2, "unknown argument of Branching.forward 'y'; known: x"),
    (["--model", f"{HERE}:Branching", "--shape", "x=a,b"], 2, "cannot read --shape 'x=a,b' (write name=1,16,21 or"),
    (["--model", f"{HERE}:Branching", "--shape", "x=1:int63"], 2, "unknown dtype 'int63'; known: "),
    (["--model", f"{HERE}:Branching", "--arg", "x=nope"], 2, "cannot read --arg 'x=nope': Expecting value"),
    (["--model", f"{HERE}:Branching", "--shape", "x=1,8", "--dtype", "bf17"], 2, "unknown dtype 'bf17'"),
    (["--model", f"{HERE}:Branching", "--shape", "x=1,8", "--hardware", "h2000"], 2, "unknown hardware 'h2000'; known"),
    (
        ["--model", f"{HERE}:Branching", "--shape", "x=1,8", "--parallel", "sp"],
        2,
        "cannot read parallel='sp'; expected",
    ),
    (["--model", f"{HERE}:Branching", "--shape", "x=1,8", "--num-gpus", "0"], 2, "num_gpus must be an integer of at"),
    (["--model", f"{HERE}:Branching"], 2, "no inputs were given (say e.g. --shape hidden_states=1,16,21,60,104"),
    (["--model", f"{HERE}:Branchin", "--shape", "x=1"], 1, f"'{HERE}:Branchin' cannot be imported: module"),
    (["--model", "no.such.module:Class", "--shape", "x=1"], 1, "'no.such.module:Class' cannot be imported: No module"),
    (["--model", f"{HERE}:Odd", "--shape", "x=1"], 1, f"'{HERE}:Odd' makes a Odd, which is no torch.nn.Module"),
    (["--shape", "x=1"], 2, "Missing option '--model'"),
]


@pytest.mark.parametrize(("words", "status", "line"), REFUSALS, ids=[" ".join(case[0][1:]) for case in REFUSALS])
def test_plan_refusals(words: list[str], status: int, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == status
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"error: {line}") and err.count("\n") == 1, err


def test_config_files_without_a_class(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", str(tmp_path), "--shape", "x=1"]) == 1
    assert "has neither a config.json nor a transformer/config.json" in capfd.readouterr().err
    (tmp_path / "config.json").write_text('{"width": 3}')
    assert main(["plan", "--model", str(tmp_path), "--shape", "x=1"]) == 1
    assert "names no class: it has neither _class_name nor architectures" in capfd.readouterr().err
    (tmp_path / "config.json").write_text('{"_class_name": "NoSuchTransformer"}')
    assert main(["plan", "--model", str(tmp_path), "--shape", "x=1"]) == 1
    assert "is of a diffusers.NoSuchTransformer, which the installed diffusers does not have" in capfd.readouterr().err


def test_hardware_is_scaled_from_what_was_measured() -> None:
    known = known_hardware()
    assert known["h200"].matmul_flops == pytest.approx(Hardware().matmul_flops)
    assert known["h100"].memory_bandwidth < known["h200"].memory_bandwidth
    assert known["l40s"].link_bandwidth < known["a100"].link_bandwidth / 5
    assert named_hardware("H100 PCIe") == known["h100-pcie"]
    if not torch.cuda.is_available():
        assert named_hardware("auto") == Hardware()


def test_gpus_are_found_by_their_full_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, expected in (
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA TITAN V", "H200"),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        assert named_hardware("auto").name == expected


def test_models_lists_every_family_and_id(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capfd.readouterr().out
    for family in FAMILIES:
        assert f" {family.name} " in out and all(model_id in out for model_id in family.ids)
    (two_denoisers,) = (line for line in out.splitlines() if line.startswith("Wan-AI/Wan2.2-I2V-A14B"))
    assert two_denoisers.split()[-4:] == ["3.5,", "3.5", "5.0", "needed"]
    assert main(["models", "--json"]) == 0
    entries = {entry["id"]: entry for entry in json.loads(capfd.readouterr().out)}
    large = entries["Wan-AI/Wan2.1-T2V-14B-Diffusers"]
    assert large["defaults"]["height"] == 720 and large["pipeline_class"] == "WanPipeline"
    assert large["flow_shift"] == 5.0 and entries["Wan-AI/Wan2.1-T2V-1.3B-Diffusers"]["flow_shift"] is None


def test_doctor(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out, err = capfd.readouterr()
    assert err == "" and f"torch {torch.__version__}" in out and "TORCH_SDPA" in out and "libx264" in out
    assert main(["doctor", "--json"]) == 0
    data = json.loads(capfd.readouterr().out)
    assert data["cores"] >= 1 and len(data["gpus"]) == torch.cuda.device_count()
    kernels = {kernel["name"]: kernel for kernel in data["kernels"]}
    assert kernels["TORCH_SDPA"]["available"] and kernels["TORCH_SDPA"]["automatic"]


def test_doctor_tells_what_to_install(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from fastvideo.backends import attention
    from fastvideo.runtime import machine

    class Lacking(attention.AttentionBackend):
        name = "LACKING"

        def supports(self, site: attention.AttentionSite) -> attention.Support:
            return attention.No("its package is not installed", "pip install lacking")

        def run(self, *args: Any, **kwargs: Any) -> Tensor:
            raise AssertionError("nothing is run")

    monkeypatch.setattr(machine.attention, "backends", lambda: {"LACKING": Lacking()})
    assert main(["doctor"]) == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "LACKING" in line]
    assert line.split("  ")[-1] == "its package is not installed; pip install lacking" and " no " in line
