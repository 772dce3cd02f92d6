"""Every class of the zoo is captured once, planned for several meshes, and agrees with eager; no work is done twice.

These tests run a part of the matrix, every class on one axis and every mesh with some class; ``make zoo`` runs all.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import replace

import diffusers.models.transformers
import pytest
from diffusers import ModelMixin

from fastvideo_ir.errors import FastVideoError

from .bounds import EXCEPTIONS, REFUSED, broken, expected, refusal
from .cases import EXACT, ZooCase
from .gathers import TokenGather
from .meshes import HEADS, MESHES, Setting, by_model, quick_settings, settings
from .running import names_decide_nothing, rounds_to_fp32, run_on, subject
from .zoo import GROUPS, ZOO

pytestmark = pytest.mark.filterwarnings("ignore")

SCRAMBLED = 8
"""Of so many classes, the quick tests rename one; the report renames all."""
LEFT_OUT: dict[str, str] = {}
"""Classes of diffusers' transformers that are not in the zoo, and why."""


@pytest.mark.parametrize(("number", "case"), list(enumerate(ZOO)), ids=lambda value: getattr(value, "name", ""))
def test_class_agrees_with_eager_and_ranks_share_its_work(number: int, case: ZooCase) -> None:
    for (heads, batch), chosen in by_model(quick_settings(case)).items():
        found = subject(case, heads, batch)
        if case.tolerance != EXACT:
            assert case.casts, "fp64 in, fp64 out: say what is computed in fp32"
            assert any(rounds_to_fp32(known.program) for known in found.captures.known), "stays in fp64: list no cast"
        for setting in chosen:
            text = refusal(case, setting)
            if text is not None:
                with pytest.raises(FastVideoError) as refused:
                    run_on(found, setting)
                assert str(refused.value).startswith(text)
                continue
            row = run_on(found, setting)
            print(case.name, setting, row)
            assert broken(case, setting, row) == expected(case, setting), f"{setting}: {row}"
            if number % SCRAMBLED == 0 and setting == chosen[0]:
                assert names_decide_nothing(found, row)


def test_every_class_stands_in_the_zoo_once() -> None:
    names = [case.name for case in ZOO]
    assert len(names) == len(set(names))
    assert set(REFUSED) <= set(names)
    for name, where, bound in EXCEPTIONS:
        (case,) = [case for case in ZOO if case.name == name]
        assert any(bound in expected(case, setting) for setting in settings(case)), (name, where)


def test_quick_selection_reaches_every_class_every_mesh_and_both_axes_with_each_kind() -> None:
    chosen = {case.name: quick_settings(case) for case in ZOO}
    assert all(chosen.values())
    for kind, cases in GROUPS.items():
        axes = {setting.mesh[:2] for case in cases for setting in chosen[case.name]}
        assert axes >= {"sp", "tp"}, kind
    used = {setting for one in chosen.values() for setting in one}
    assert {setting.mesh for setting in used} == set(MESHES)
    assert {setting.heads for setting in used} == {HEADS, 9, 10, 12}
    assert all(set(chosen[case.name]) <= set(settings(case)) for case in ZOO)


def test_every_transformer_of_diffusers_is_in_the_zoo() -> None:
    classes = set()
    for module in pkgutil.iter_modules(diffusers.models.transformers.__path__):
        found = importlib.import_module(f"{diffusers.models.transformers.__name__}.{module.name}")
        classes |= {
            one
            for _, one in inspect.getmembers(found, inspect.isclass)
            if issubclass(one, ModelMixin) and one.__module__ == found.__name__
        }
    assert len(classes) > 70
    in_zoo = {type(module) for case in ZOO for module in case.at(HEADS).build().modules()}
    assert {one.__name__ for one in classes - in_zoo} == set(LEFT_OUT)


def test_a_broken_bound_is_noticed() -> None:
    case, setting = ZOO[0], Setting("sp=2")
    row = run_on(subject(case), setting)
    assert broken(case, setting, row) == set()
    wrong = replace(row, error=1e-3, work=2.0, attention=2.0, gathers=[TokenGather("sp", "dearer")])
    assert broken(case, setting, wrong) == {"error", "work", "attention", "gather"}
    assert broken(case, setting, replace(row, gathers=[TokenGather("sp", "cheaper")])) == set()


def test_gather_of_the_token_stream_is_judged_by_what_explain_says() -> None:
    """Around attention tokens are exchanged, not gathered; where weights are cut, no gather is dearer than none."""
    (case,) = [case for case in ZOO if case.name == "einops"]
    found = subject(case)
    assert run_on(found, Setting("sp=2")).gathers == []
    judged = {gather.verdict for gather in run_on(found, Setting("tp=2")).gathers}
    assert "cheaper" in judged
    assert "dearer" not in judged
