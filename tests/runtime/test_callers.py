"""Every way a caller can be run, and every way it can end. Each test runs a script in a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from .programs import FAULT_OPS, wait_until_gone

ROOT = Path(__file__).parents[2]
SCRIPT = f"""
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
signal.pthread_sigmask(signal.SIG_UNBLOCK, {{signal.SIGINT}})
import torch
import fastvideo_ir as ir
from fastvideo.runtime.executors import WorkerGroup

sys.path.append({str(Path(FAULT_OPS).parent)!r})
import fault_ops
group = WorkerGroup(2, torch.device("cpu"), plugins=["fault_ops"])
program = '''program stage=communicating mesh=(sp=2) {{
  %x : f32[3] = input
  %mine : f32[3@sp] = fv.shard(%x, "sp")
  %same : f32[3@sp] = fvtest.fault.default(%mine, "KIND", 1)
  %gathered : (f32[3]) = fv.all_gather([%same], "sp")
  %out : f32[3] = getitem(%gathered, 0)
  return (%out)
}}'''
executor = group.load(ir.parse_program(program), {{}})
print(*group.pids.values(), group._session.processes.directory, flush=True)
print(executor.run([torch.arange(3.0)])[0].tolist(), flush=True)
"""


def start(arguments: list[str], folder: Path, stdin: str | None = None) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FAULT_MARK": str(folder / "asleep")},
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if stdin:
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None
    return process


def workers_of(process: subprocess.Popen[str]) -> tuple[list[int], Path]:
    """Process ids and private directory, from the script's first line."""
    assert process.stdout is not None
    *pids, folder = process.stdout.readline().split()
    return [int(pid) for pid in pids], Path(folder)


def hanging(folder: Path) -> subprocess.Popen[str]:
    """A script in whose call rank 1 sleeps."""
    script = folder / "script.py"
    script.write_text(SCRIPT.replace("KIND", "sleep"))
    return start([str(script)], folder)


def test_script_without_guard_and_without_close(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "random.py").write_text("raise SystemExit('a file of the user was imported')")
    process = start([str(tmp_path / "script.py")], tmp_path / "cwd")
    pids, folder = workers_of(process)
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("[0.0, 1.0, 2.0]\n", "", 0)
    assert wait_until_gone(pids, 0) == []
    assert not folder.exists()


def test_script_on_stdin_that_raises(tmp_path: Path) -> None:
    process = start(["-"], tmp_path, SCRIPT + "\nraise LookupError('the end')\n")
    pids, folder = workers_of(process)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("[0.0, 1.0, 2.0]\n", 1)
    assert err.rstrip().endswith("LookupError: the end")
    assert wait_until_gone(pids, 0) == []
    assert not folder.exists()


def test_ctrl_c_in_the_middle_of_a_call(tmp_path: Path) -> None:
    process = hanging(tmp_path)
    pids, folder = workers_of(process)
    deadline = time.monotonic() + 30
    while not (tmp_path / "asleep").exists():
        assert time.monotonic() < deadline, "rank 1 never came to the op that sleeps"
        time.sleep(0.01)
    time.sleep(0.3)  # by then rank 0 waits for it
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert wait_until_gone(pids, 0) == []
    assert not folder.exists()


def test_caller_that_is_killed(tmp_path: Path) -> None:
    process = hanging(tmp_path)
    pids, folder = workers_of(process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert wait_until_gone(pids, 60) == []
    shutil.rmtree(folder, ignore_errors=True)  # nobody was left to do it, unless another group has started since
