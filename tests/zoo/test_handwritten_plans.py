"""Where diffusers has a hand-written plan for context parallelism, ours moves no more, in no more collectives."""

from __future__ import annotations

import pytest
from diffusers import ModelMixin

from .handwritten_plans import INPUTS, RANKS, ours, theirs
from .meshes import HEADS
from .zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", INPUTS)
def test_plan_moves_no_more_than_the_hand_written_one(name: str, ranks: int) -> None:
    by_hand, found = theirs(name, ranks), ours(name, ranks)
    assert by_hand.keys() == found.keys()
    assert all(moved.bytes and moved.collectives for moved in by_hand.values()), "nothing was counted"
    for kind, moved in by_hand.items():
        assert found[kind].bytes <= moved.bytes, (kind, found[kind], moved)
        assert found[kind].collectives <= moved.collectives, (kind, found[kind], moved)


def test_every_class_with_a_hand_written_plan_is_compared() -> None:
    models = {case.name: case.at(HEADS).build() for case in ZOO}
    planned = {name for name, model in models.items() if isinstance(model, ModelMixin) and model._cp_plan}
    assert planned - {"FluxControlNet"} == set(INPUTS)
