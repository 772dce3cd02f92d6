"""The contract of ``fastvideo.compile`` and of the call: structure, caching, and what is refused with which words."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastvideo
import fastvideo_ir as ir
from fastvideo_ir.errors import FastVideoError, InvalidArgumentError, UnknownNameError

from . import toy
from .measuring import errors_of

TOLERANCE = 1e-5


def compiled_toy(model: nn.Module | None = None, **options: Any) -> fastvideo.CompiledModel:
    return fastvideo.compile(toy.build(1) if model is None else model, device="cpu", **options)


def assert_agrees(compiled: fastvideo.CompiledModel, model: nn.Module, seed: int = 0) -> None:
    with torch.no_grad():
        expected = model(**toy.inputs(seed)).sample
    assert max(errors_of([compiled(**toy.inputs(seed)).sample], [expected])) <= TOLERANCE


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_gpus": 1, "executor": "local"},
        {"num_gpus": 3, "executor": "simulated"},
        {"parallel": fastvideo.Parallel(sp=2, tp=2), "executor": "simulated"},
        {"num_gpus": 2, "parallel": fastvideo.Parallel(tp=2), "executor": "mp"},
        {"num_gpus": 2, "executor": "simulated", "verify": False},
    ],
    ids=str,
)
def test_result_is_the_models_on_inputs_it_was_not_compiled_with(options: dict[str, Any]) -> None:
    model = toy.build(1)
    with compiled_toy(model, **options) as compiled:
        compiled(**toy.inputs(0))
        assert_agrees(compiled, model, seed=1)
        assert len(compiled.programs) == 1


def test_structure_is_the_models_own() -> None:
    with compiled_toy() as compiled:
        assert inspect.signature(compiled) == inspect.signature(toy.build(1).forward)
        output = compiled(**toy.inputs())
        assert type(output) is toy.ToyOutput
        row = compiled(**toy.inputs(), return_dict=False)
        assert type(row) is tuple
        assert torch.equal(row[0], output.sample)
    with compiled_toy(nn.Linear(4, 3).eval()) as single:
        assert type(single(torch.ones(2, 4))) is Tensor


def test_keyword_and_positional_calls_share_a_program() -> None:
    given = toy.inputs()
    with compiled_toy() as compiled:
        first = compiled(**given)
        second = compiled(given["x"], given["timestep"], context=given["context"], guidance=1.0)
        assert torch.equal(first.sample, second.sample)
        assert len(compiled.programs) == 1


@pytest.mark.parametrize(
    "other",
    [toy.inputs(tokens=31), toy.inputs(batch=2), toy.inputs() | {"guidance": 2.0}],
    ids=["tokens", "batch", "number"],
)
def test_another_signature_gets_a_program_of_its_own(other: dict[str, Any]) -> None:
    model = toy.build(1)
    with compiled_toy(model) as compiled, torch.no_grad():
        for given in (toy.inputs(), other, toy.inputs(), other):
            assert max(errors_of([compiled(**given).sample], [model(**given).sample])) <= TOLERANCE
        assert len(compiled.programs) == len(compiled.report.programs) == 2


class ReadsANumber(nn.Module):
    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        return x * 2 if steps.item() > 3 else x - 1


def test_value_that_the_model_reads_into_python_is_guarded_and_captured_again() -> None:
    model, x = ReadsANumber().eval(), torch.arange(4.0)
    with compiled_toy(model) as compiled:
        for steps in (1, 5, 1, 5):
            assert torch.equal(compiled(x, torch.tensor(steps)), model(x, torch.tensor(steps)))
        assert len(compiled.programs) == 2


def test_outputs_belong_to_the_caller() -> None:
    class Echo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.clone(), self.weight.clone()

    model, x = Echo().eval(), torch.zeros(4)
    with compiled_toy(model) as compiled:
        for output in compiled(x):
            output.add_(5)
        assert [out.tolist() for out in compiled(x)] == [[0.0] * 4, [1.0] * 4]
    assert x.tolist() == [0.0] * 4
    assert model.weight.tolist() == [1.0] * 4


def test_no_gradient_is_kept_and_inference_tensors_are_taken() -> None:
    with compiled_toy() as compiled, torch.inference_mode():
        given = toy.inputs()
        first = compiled(**given)
    with compiled_toy() as compiled, torch.enable_grad():
        assert not compiled(**toy.inputs()).sample.requires_grad
    assert not first.sample.requires_grad


def test_training_mode_is_refused_when_compiled_and_when_called() -> None:
    with pytest.raises(InvalidArgumentError, match=r"ToyDiT is in training mode \(call model.eval\(\) first\)"):
        compiled_toy(toy.build().train())
    model = toy.build(1)
    with compiled_toy(model) as compiled:
        model.train()
        with pytest.raises(InvalidArgumentError, match=r"the model is in training mode \(call model.eval\(\)\)"):
            compiled(**toy.inputs())


def test_input_that_requires_grad_is_refused_by_name() -> None:
    with compiled_toy() as compiled:
        given = toy.inputs()
        given["x"].requires_grad_()
        with pytest.raises(InvalidArgumentError, match=r"'?x'? requires grad"):
            compiled(**given)


def test_wrong_arguments_are_refused_with_the_models_signature() -> None:
    with compiled_toy() as compiled:
        with pytest.raises(InvalidArgumentError, match=r"ToyDiT.forward\(x: .*missing a required argument: 'context'"):
            compiled(toy.inputs()["x"], toy.inputs()["timestep"])
        with pytest.raises(InvalidArgumentError, match="unexpected keyword argument 'no_such'"):
            compiled(**toy.inputs(), no_such=1)


def _write(model: toy.ToyDiT) -> None:
    with torch.no_grad():
        model.head.weight.mul_(2)


def _replace(model: toy.ToyDiT) -> None:
    model.head.weight = nn.Parameter(torch.randn_like(model.head.weight))


def _swap_storage(model: toy.ToyDiT) -> None:
    model.head.weight.data = torch.randn_like(model.head.weight)


def _replace_buffer(model: toy.ToyDiT) -> None:
    model.offset = torch.randn(6)


def _load(model: toy.ToyDiT) -> None:
    model.load_state_dict({name: torch.randn_like(value) for name, value in model.state_dict().items()}, assign=True)


CHANGES = [_write, _replace, _swap_storage, _replace_buffer, _load]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("options", [{}, {"num_gpus": 2, "executor": "simulated"}], ids=["local", "simulated"])
def test_changed_weights_are_refused_until_they_are_read_anew(change: Any, options: dict[str, Any]) -> None:
    model = toy.build(1)
    with compiled_toy(model, **options) as compiled:
        before = compiled(**toy.inputs()).sample
        change(model)
        with pytest.raises(InvalidArgumentError) as caught:
            compiled(**toy.inputs())
        assert str(caught.value) == (
            "the model's weights have changed since it was compiled (call update_weights() after changing them)"
        )
        compiled.update_weights()
        assert_agrees(compiled, model)
        assert not torch.equal(compiled(**toy.inputs()).sample, before)
        assert len(compiled.programs) == 1, "new values need no new program"


def test_processes_read_changed_weights_anew() -> None:
    model = toy.build(1)
    with compiled_toy(model, num_gpus=2, executor="mp") as compiled:
        assert_agrees(compiled, model)
        _load(model)
        compiled.update_weights()
        assert_agrees(compiled, model)


def test_weights_of_another_dtype_are_compiled_anew() -> None:
    model = toy.build(1)
    with compiled_toy(model) as compiled:
        assert_agrees(compiled, model)
        model.double()
        compiled.update_weights()
        given = {name: value.double() if value.is_floating_point() else value for name, value in toy.inputs().items()}
        with torch.no_grad():
            assert max(errors_of([compiled(**given).sample], [model(**given).sample])) <= 1e-10


def test_tensor_that_is_a_plain_attribute_is_watched_too() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.ones(4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.shift

    model, x = Shifted().eval(), torch.zeros(4)
    with compiled_toy(model) as compiled:
        assert compiled(x).tolist() == [1.0] * 4
        for value in (2.0, 3.0):
            if value == 2.0:
                model.shift = torch.full((4,), value)
            else:
                model.shift.fill_(value)
            with pytest.raises(InvalidArgumentError, match="weights have changed"):
                compiled(x)
            compiled.update_weights()
            assert compiled(x).tolist() == [value] * 4


def test_weights_may_change_before_the_first_call() -> None:
    model = toy.build(1)
    with compiled_toy(model) as compiled:
        _load(model)
        for seed in (0, 1):
            assert_agrees(compiled, model, seed)


def test_closing_twice_is_fine_and_a_call_afterwards_is_an_error() -> None:
    compiled = compiled_toy()
    compiled(**toy.inputs())
    compiled.close()
    compiled.close()
    for use in (lambda: compiled(**toy.inputs()), compiled.update_weights):
        with pytest.raises(FastVideoError, match="this compiled model is closed"):
            use()


def test_context_closes_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), compiled_toy() as compiled:
        raise ZeroDivisionError
    with pytest.raises(FastVideoError, match="closed"):
        compiled(**toy.inputs())


def test_explain_tells_mesh_backends_collectives_work_and_weights() -> None:
    with compiled_toy(num_gpus=2, executor="simulated") as compiled:
        assert "nothing compiled yet" in compiled.explain()
        compiled(**toy.inputs())
        text = compiled.explain()
        report = compiled.report.to_dict()
    for part in (
        "ToyDiT on 2 ranks (simulated, cpu)",
        "x: f32[1, 30, 6]",
        "bit-equal",
        "mesh(sp=2)",
        "2 × TORCH_SDPA",
        "slower, modelled on H200",
        "1 × fv.all_gather over sp",
        "busiest rank 5",
        "per rank at most",
        "small ops",
    ):
        assert part in text, part
    (program,) = json.loads(json.dumps(report))["programs"]
    assert sum(entry["sites"] for entry in program["attention"]) == 2
    assert sum(program["flops_per_rank"]) >= program["flops"] > 0
    assert [name for name, _ in program["pass_seconds"]][-1] == "offload-params"
    assert len(program["param_bytes_per_rank"]) == 2


def test_dump_holds_each_program_and_each_diff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVIDEO_DUMP", str(tmp_path / "dump"))
    with compiled_toy(num_gpus=2, executor="simulated") as compiled:
        compiled(**toy.inputs())
        compiled(**toy.inputs(tokens=31))
        final = [ir.print_program(program) for program in compiled.programs]
    names = [f"{n:02d}-{step}" for n, step in enumerate(PASSES, 1)]
    for folder, text in zip((tmp_path / "dump", tmp_path / "dump" / "signature-1"), final, strict=True):
        files = {path.name for path in folder.iterdir() if path.is_file()}
        assert files == {"00-captured.fvir"} | {f"{name}.{end}" for name in names for end in ("fvir", "diff")}
        assert (folder / f"{names[-1]}.fvir").read_text() == text
        assert "+" in (folder / "09-insert-reshards.diff").read_text()
        assert "= fv.reshard(" in (folder / "09-insert-reshards.diff").read_text()


PASSES = (
    "canonicalize",
    "recognize-attention",
    "eliminate-mask",
    "select-attention-backend",
    "fuse-linear-gelu",
    "fold-padding",
    "choose-mesh",
    "plan-sharding",
    "insert-reshards",
    "expand-statistics",
    "lower-reshards",
    "pack-collectives",
    "shard-params",
    "offload-params",
)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"attention_backend": "TORCH_SPDA"}, UnknownNameError, "unknown attention backend 'TORCH_SPDA'; known: "),
        ({"attention_backend": "torch_sdpa"}, UnknownNameError, "did you mean 'TORCH_SDPA'?"),
        ({"executor": "simulatd"}, UnknownNameError, "did you mean 'simulated'?"),
        ({"executor": "ray"}, UnknownNameError, "unknown executor 'ray'; known: auto, local, mp, simulated"),
        ({"passes": "default,-pack-colectives"}, UnknownNameError, "did you mean 'pack-collectives'?"),
        ({"passes": "defalt"}, UnknownNameError, "did you mean 'default'?"),
        ({"passes": [3]}, InvalidArgumentError, "3 is not a pass"),
        ({"num_gpus": 100_000, "device": "cpu"}, InvalidArgumentError, "on the CPU each rank is a process"),
        ({"num_gpus": 0}, InvalidArgumentError, "num_gpus must be an integer of at least 1, got 0"),
        ({"num_gpus": 2.0}, InvalidArgumentError, "num_gpus must be an integer of at least 1, got 2.0"),
        ({"num_gpus": True}, InvalidArgumentError, "num_gpus must be an integer of at least 1, got True"),
        ({"num_gpus": 3, "parallel": fastvideo.Parallel(sp=2)}, InvalidArgumentError, "Parallel(sp=2) is for 2 ranks"),
        ({"parallel": 4}, InvalidArgumentError, "parallel=4 is not a Parallel; expected e.g. Parallel(sp=4)"),
        ({"executor": "local", "num_gpus": 2}, InvalidArgumentError, "executor='local' has one rank, but 2"),
        ({"executor": "mp"}, InvalidArgumentError, "executor='mp' needs num_gpus of at least 2"),
        ({"device": "tpu"}, InvalidArgumentError, "'tpu' is not a device"),
        ({"device": "meta"}, InvalidArgumentError, "device must be a CUDA device or the CPU, got meta"),
        ({"invariant": ("contex",)}, InvalidArgumentError, "did you mean 'context'?"),
        ({"invariant": "context"}, InvalidArgumentError, "invariant='context' is one text; expected names"),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused_at_once(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        fastvideo.compile(toy.build(1), **({"device": "cpu"} | options))
    assert message in str(caught.value)


@pytest.mark.parametrize("sizes", [{"sp": 0}, {"tp": -1}, {"cfg": 1.5}, {"dp": True}])
def test_parallel_of_something_else_than_counts_is_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="expected an integer of at least 1"):
        fastvideo.Parallel(**sizes)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected a torch.nn.Module, got a function"):
        fastvideo.compile(lambda x: x)  # type: ignore[arg-type]


def test_passes_that_leave_ranks_without_a_division_are_refused() -> None:
    for passes, message in (
        ("default,-choose-mesh", "but it is compiled for 2 ranks"),
        ("canonicalize", "ranks"),
        ("default,-lower-reshards,-pack-collectives,-shard-params,-offload-params", "ranks need COMMUNICATING"),
    ):
        with compiled_toy(num_gpus=2, executor="simulated", passes=passes) as compiled:
            with pytest.raises(InvalidArgumentError) as caught:
                compiled(**toy.inputs())
            assert message in str(caught.value)


def test_batch_that_the_pinned_axis_cannot_split_is_refused_at_the_call() -> None:
    with compiled_toy(parallel=fastvideo.Parallel(cfg=2), executor="simulated") as compiled:
        with pytest.raises(FastVideoError, match="axis 'cfg' splits the batch over 2 ranks"):
            compiled(**toy.inputs())
        model_still_works = compiled(**toy.inputs(batch=2)).sample
    assert model_still_works.shape[0] == 2


def test_two_compiled_models_may_share_a_model_and_move_its_weights() -> None:
    model = toy.build(1)
    with compiled_toy(model) as here, compiled_toy(model, num_gpus=2, executor="mp") as there:
        for compiled in (here, there, here, there):
            assert_agrees(compiled, model)
