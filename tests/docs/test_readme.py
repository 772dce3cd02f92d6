"""The README's samples, one after the other: unchanged as a script, through ``python -``, and in a notebook."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from .blocks import ROOT, blocks

README = ROOT / "README.md"
SAMPLES = blocks(README, "python")


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing of this project on the way but the packages."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the same on every machine; two ranks would need two GPUs
    return tmp_path


def run_python(words: list[str], cwd: Path, script: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        input=script,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_output(printed: str, cwd: Path) -> None:
    """What the samples print is right."""
    assert re.search(
        r"^outputs/a-large-yellow-star-grows-on-a-navy-background.mp4 \d+\.\d s of denoising$", printed, re.M
    )
    assert (cwd / "outputs" / "a-large-yellow-star-grows-on-a-navy-background.mp4").stat().st_size > 1000
    check_compiled(printed)


def check_compiled(printed: str) -> None:
    """What the samples after the first print is right: those that compile a model."""
    errors = [float(error) for error in re.findall(r"largest error (\S+)", printed)]
    assert len(errors) == 3 and max(errors) < 1e-5
    assert "1 silu instead of 3" in printed
    (shown,) = blocks(README, "text")
    printed_lines = {_without_times(line) for line in printed.splitlines()}
    missing = [line for line in shown.splitlines() if line.strip() and _without_times(line) not in printed_lines]
    assert not missing, f"the README shows lines that the samples do not print: {missing}"


def _without_times(line: str) -> str:
    """A line of ``explain`` without times, and without the backends that cannot run here."""
    return re.sub(r"\d+\.\d s\b|slowest: [\w-]+| \(\w+ refused: .*\)", "", line).rstrip()


def test_samples_have_no_guard() -> None:
    assert len(SAMPLES) == 4
    assert all("__main__" not in sample for sample in SAMPLES)


def test_as_a_script(cwd: Path) -> None:
    (cwd / "sample.py").write_text("\n".join(SAMPLES))
    check_output(run_python(["sample.py"], cwd), cwd)


def test_through_stdin(cwd: Path) -> None:
    """All but the first: tests/pipeline/test_video_generator.py has a generator in such a script."""
    check_compiled(run_python(["-"], cwd, "\n".join(SAMPLES[1:])))


def test_in_a_notebook(cwd: Path) -> None:
    """Fewer steps for the video, which is a script's in full."""
    first, *others = SAMPLES
    assert "num_inference_steps=8" in first
    cells = [first.replace("num_inference_steps=8", "num_inference_steps=1"), *others]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(sample) for sample in cells])
    client = NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(cwd)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    check_output("".join(output.text for output in outputs if output.get("name") == "stdout"), cwd)


def test_backend_from_stdin_is_refused_for_several_processes(cwd: Path) -> None:
    """What the README says of backends that other processes cannot import."""
    model, backend = SAMPLES[1].split("with fastvideo.compile")[0], SAMPLES[3].split("with fastvideo.compile")[0]
    call = 'fastvideo.compile(model, num_gpus=2, device="cpu", attention_backend="FLOAT32")(latents, condition)\n'
    attempt = f"try:\n    {call}except fastvideo.FastVideoError as error:\n    print(error)\n"
    printed = run_python(["-"], cwd, "\n".join([model, backend, attempt]))
    assert printed.startswith("attention backend FLOAT32 is defined in a notebook or on stdin, where worker processes")
