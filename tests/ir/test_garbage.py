"""Collections are put off while graphs are made, and for no longer."""

from __future__ import annotations

import gc

import pytest

from fastvideo_ir.garbage import collections_put_off


def test_no_collection_starts_inside_and_an_error_brings_them_back() -> None:
    before = sum(generation["collections"] for generation in gc.get_stats())
    with pytest.raises(KeyError), collections_put_off():
        kept = [[number] for number in range(10 * gc.get_threshold()[0])]
        assert sum(generation["collections"] for generation in gc.get_stats()) == before
        raise KeyError(len(kept))
    assert gc.isenabled()


def test_only_who_put_them_off_brings_them_back() -> None:
    with collections_put_off():
        with collections_put_off():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with collections_put_off():
            pass
        assert not gc.isenabled(), "the caller's own wish"
    finally:
        gc.enable()
