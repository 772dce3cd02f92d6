"""The command line: a video, or one clear line on stderr and an exit status that is not zero."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from fastvideo.frontends import loading
from fastvideo.runtime.pipeline.metadata import read_metadata

from .compiled import run_python
from .test_video import decode

SMALL = ["--height", "48", "--width", "80", "--num-frames", "5", "--steps", "2", "--seed", "3", "--device", "cpu"]


def run_cli(*words: str) -> int:
    from fastvideo.cli import main

    return main(["generate", *words])


def test_generate(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompt.txt").write_text("\n  a cat on a red chair \n\n", encoding="utf-8")
    words = ["--model", str(folder), "--prompt-file", str(tmp_path / "prompt.txt"), "--output", str(tmp_path / "out")]
    assert run_cli(*words, *SMALL, "--fps", "8", "--guidance-scale", "1", "--no-progress") == 0
    path = tmp_path / "out/a-cat-on-a-red-chair.mp4"
    out, err = capfd.readouterr()
    assert out.startswith(f"{path}  (seed 3; ") and err == ""
    frames, rate, _ = decode(path)
    assert frames.shape == (5, 48, 80, 3) and rate == 8
    two = ["--prompt", "a cat", "--prompt", "a dog", "--output", str(tmp_path / "two")]
    assert run_cli("--model", str(folder), *two, *SMALL) == 0
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["a-cat.mp4", "a-dog.mp4"]


REFUSALS: list[tuple[list[str], int, str]] = [
    (
        ["--prompt", "x", "--height", "50"],
        2,
        "height must be a multiple of 16 pixels for this VAE and transformer, got 50 (the nearest values are 48 or 64)",
    ),
    (
        ["--prompt", "x", "--num-frames", "6"],
        2,
        "num_frames must be 1 more than a multiple of 4 for this VAE, got 6 (the nearest values are 5 or 9)",
    ),
    (["--prompt", "x", "--steps", "0"], 2, "num_inference_steps must be an integer from 1 to 1000, got 0"),
    (["--prompt", "x", "--seed", "-1"], 2, "seed must be an integer from 0 to 9223372036854775807, got -1"),
    (["--prompt", " "], 2, "the prompt is empty (say in words what the video shows)"),
    ([], 2, "no prompt was given (say in words what the video shows)"),
    (["--prompt", "x", "--prompt-file", "y"], 2, "both a prompt and a prompt file were given (give one of them)"),
    (["--prompt-file", "/nothing.txt"], 2, "the prompt file '/nothing.txt' does not exist (check the path)"),
    (
        ["--prompt", "x", "--output", "/proc/nothing"],
        2,
        "the output folder '/proc/nothing' cannot be written: No such file or directory (choose another folder",
    ),
    (["--prompt", "x", "--prompt", " "], 2, "prompt 2 of 2: the prompt is empty (say in words what the video shows)"),
    (["--prompt-file", "/proc"], 2, "the prompt file '/proc' is a folder (name a text file with a prompt on each"),
    (["--prompt", "x", "--quantization", "fp3", "--device", "cpu"], 2, "unknown quantization 'fp3'; known: fp8, int8"),
    (["--prompt", "x", "--device", "gpu"], 2, "'gpu' is not a device; expected e.g. 'cuda' or 'cpu'"),
    (["--prompt", "x", "--num-gpus", "0"], 2, "num_gpus must be an integer of at least 1, got 0"),
    (
        ["--prompt", "x", "--dtype", "float17", "--device", "cpu"],
        2,
        "unknown dtype 'float17'; known: bfloat16, float16, float32, float64 (did you mean 'float16'?)",
    ),
    (
        ["--prompt", "x", "--flow-shift", "-1", "--device", "cpu"],
        2,
        "flow_shift must be a positive number, got -1.0 (typical values are 3.0 to 12.0)",
    ),
    (["--prompt", "x", "--heigth", "48"], 2, "No such option: --heigth"),
    (["--prompt", "x", "--height", "tall"], 2, "Invalid value for '--height': "),
]


@pytest.mark.parametrize(("words", "status", "line"), REFUSALS, ids=[" ".join(case[0]) for case in REFUSALS])
def test_refusal_is_one_line_and_nothing_is_loaded(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    line: str,
) -> None:
    def load(*args: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(loading.PipelineFolder, "load", load)
    monkeypatch.chdir(tmp_path)
    assert run_cli("--model", str(folder), *words) == status
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"error: {line}") and err.count("\n") == 1


def test_damaged_pipelines(copy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_cli("--model", str(tmp_path), "--prompt", "x") == 1
    assert f"error: '{tmp_path}' is not a pipeline: it has no model_index.json" in capfd.readouterr().err
    weights = copy / "transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert run_cli("--model", str(copy), "--prompt", "x", "--output", str(tmp_path / "out"), *SMALL) == 1
    err = capfd.readouterr().err
    assert err.startswith(f"error: '{weights}' is truncated or damaged") and err.count("\n") == 1
    weights.unlink()
    assert run_cli("--model", str(copy), "--prompt", "x", "--output", str(tmp_path / "out"), *SMALL) == 1
    assert capfd.readouterr().err.startswith(f"error: '{weights}' is missing")


def test_unknown_backend(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(folder), "--prompt", "x", "--output", str(tmp_path), *SMALL]
    assert run_cli(*words, "--attention-backend", "TORCH_SDPAA") == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("error: unknown attention backend 'TORCH_SDPAA'; known: ") and "TORCH_SDPA'?" in err


def test_debug_shows_the_traceback(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_cli("--model", str(folder), "--prompt", " ", "--debug") == 2
    err = capfd.readouterr().err
    assert "Traceback (most recent call last)" in err and err.splitlines()[-1].startswith("error: the prompt is empty")


def test_unexpected_error_is_one_line_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def load(*args: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(loading.PipelineFolder, "load", load)
    assert run_cli("--model", str(folder), "--prompt", "x", "--output", str(tmp_path), *SMALL) == 1
    err = capfd.readouterr().err.splitlines()
    assert err == ["error: ZeroDivisionError: of all things (run again with --debug for the traceback)"]


def test_interrupt(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def open_pipeline(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "open_pipeline", open_pipeline)
    assert run_cli("--model", str(folder), "--prompt", "x") == 130
    assert capfd.readouterr().err == "error: interrupted\n"


def test_interrupt_while_imports_run(tmp_path: Path) -> None:
    """Ctrl-C in the first second, long before a model is looked at, is one line as well."""
    script = """
import importlib.abc, os, signal, sys

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch.nn":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from fastvideo.cli import main
sys.exit(main())
"""
    done = run_python(["-c", script, "generate", "--model", "x", "--prompt", "x"], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize("words", [["--help"], ["generate", "--help"], ["generat"], ["generate", "--heigth", "5"]])
def test_answers_without_torch(words: list[str], tmp_path: Path) -> None:
    """Help and wrong options are answered before anything heavy is imported."""
    script = "import sys; from fastvideo.cli import main; s = main(); assert 'torch' not in sys.modules; sys.exit(s)"
    done = run_python(["-c", script, *words], tmp_path)
    assert done.returncode == (0 if "--help" in words else 2), done.stderr
    assert done.stderr.count("\n") == (0 if "--help" in words else 1)


CONFIG = """
prompt: a cat
height: 48
width: 80
num-frames: 5
steps: 0
parallel: sp=1
"""


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_config_file(folder: Path, tmp_path: Path, ending: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"run.{ending}"
    path.write_text(CONFIG if ending == "yaml" else json.dumps(yaml.safe_load(CONFIG)))
    words = ["--config", str(path), "--model", str(folder), "--output", str(tmp_path / "out"), "--no-progress"]
    assert run_cli(*words) == 2
    assert "num_inference_steps must be an integer from 1 to 1000, got 0" in capfd.readouterr().err
    assert run_cli(*words, "--steps", "1", "--prompt", "a dog", "--device", "cpu") == 0
    assert decode(tmp_path / "out/a-dog.mp4")[0].shape == (5, 48, 80, 3)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.yaml", "heigth: 480", "unknown config key 'heigth'; known: "),
        (
            "a.yaml",
            "steps: 4\nnum-inference-steps: 5",
            "the config file 'a.yaml' says num_inference_steps twice: 'num-inference-steps'",
        ),
        ("a.yaml", "- height", "the config file 'a.yaml' holds a list; expected entries like `height: 480`"),
        ("a.yaml", "height: [", "the config file 'a.yaml' is damaged: while parsing"),
        ("a.json", "{", "the config file 'a.json' is damaged: Expecting property name"),
        ("a.txt", "", "the config file 'a.txt' is damaged: it ends in '.txt', expected .yaml, .yml or .json"),
        ("b.yaml", None, "the config file 'b.yaml' does not exist (check the path)"),
        ("a.yaml", "height: 480", "no model was given (name a pipeline folder or hub id with --model"),
        (
            "a.yaml",
            "parallel: {sq: 2}\nmodel: x",
            "unknown mesh axis 'sq'; known: cfg, dp, ring, sp, tp (did you mean 'sp'?)",
        ),
        ("a.yaml", "parallel: 2\nmodel: x", "cannot read parallel=2; expected e.g. sp=4,tp=2"),
    ],
)
def test_config_file_refusals(
    name: str,
    text: str | None,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text)
    assert run_cli("--config", name, "--prompt", "x") == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: {line}") and err.count("\n") == 1


def test_as_a_process(tmp_path: Path) -> None:
    """A wrong call ends with a status that a shell sees."""
    script = "import sys; from fastvideo.cli import main; sys.exit(main())"
    for words, status, text in (
        (["generate", "--help"], 0, "--prompt-file"),
        (["generate", "--model", str(tmp_path), "--prompt", "x"], 1, "it has no model_index.json"),
        ([], 2, "error: Missing command."),
    ):
        done = run_python(["-c", script, *words], tmp_path)
        assert done.returncode == status and text in done.stdout + done.stderr, (words, done)
        assert done.stderr.count("\n") == (status != 0)


def test_a_file_of_prompts_in_another_format(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n", encoding="utf-8")
    words = ["--model", str(folder), "--prompt-file", str(tmp_path / "prompts.txt"), "--output", str(tmp_path / "out")]
    assert run_cli(*words, *SMALL, "--steps", "1", "--output-format", "gif", "--device", "cpu") == 0
    lines = capsys.readouterr().out.splitlines()
    files = [tmp_path / "out" / name for name in ("a-cat.gif", "a-dog.gif")]
    assert [line.split("  ")[0] for line in lines] == [str(file) for file in files]
    assert [read_metadata(file)["prompt"] for file in files] == ["a cat", "a dog"]
    assert run_cli(*words, *SMALL, "--output-format", "webm") == 2
    assert "unknown output_format 'webm'; known: gif, mp4, png" in capsys.readouterr().err
