"""Ops that pick elements by index tensors, and ops that make tensors of one number."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvideo_ir import DEVICE

from .case import Draw, call, case, exact

ONE = [(0,)]


def _index(d: Draw, limit: str | int, *dims: str | int) -> Tensor:
    return d.ints(*dims, low=0, high=d.shape(limit)[0])


CASES = [
    exact("take.default", lambda d: call(d.real("vc"), d.ints("bs", low=0, high=4)), "01", partial=ONE),
    exact("isin.Tensor_Tensor", lambda d: call(d.ints("bsc"), d.ints("v", low=0)), "012"),
    exact("isin.Tensor_Tensor", lambda d: call(d.ints("bs"), d.ints("25", low=1), invert=True), "01"),
    exact("scatter.reduce", lambda d: call(d.ints("bs"), 1, _index(d, "s", "bs"), d.ints("bs"), reduce="add"), "0"),
    exact("scatter.value_reduce", lambda d: call(d.ints("bs"), 1, _index(d, "s", "bs"), 3, reduce="multiply"), "0"),
    exact("embedding.default", lambda d: call(d.real("vc"), _index(d, "v", "bs")), "012", partial=ONE),
    exact("embedding.default", lambda d: call(d.real("vc"), _index(d, "v", "")), "0", partial=ONE),
    exact("index.Tensor", lambda d: call(d.real("bsc"), [None, _index(d, "s", "t")]), "012", partial=ONE),
    exact("index.Tensor", lambda d: call(d.real("bsc"), [_index(d, "b", "tu")]), "0123", partial=ONE),
    exact(
        "index.Tensor", lambda d: call(d.real("bsc"), [_index(d, "b", "t1"), _index(d, "s", "u")]), "012", partial=ONE
    ),
    exact("index.Tensor", lambda d: call(d.real("bsc"), [_index(d, "b", "t"), None, _index(d, "c", "t")]), "01"),
    exact("index.Tensor", lambda d: call(d.real("bsc"), [None, _index(d, "s", ""), _index(d, "c", "t")]), "01"),
    exact("index_select.default", lambda d: call(d.real("bsc"), 1, _index(d, "s", "t")), "012", partial=ONE),
    exact("gather.default", lambda d: call(d.real("bsc"), 1, _index(d, "s", "btc")), "012", partial=ONE),
    exact("gather.default", lambda d: call(d.real("b", 5), 0, _index(d, "b", "t", 3)), "0", partial=ONE),
    exact("take_along_dim.default", lambda d: call(d.real("bsc"), _index(d, "s", "b1c"), 1), "02", partial=ONE),
    exact("scatter.src", lambda d: call(d.real("b", 8, "c"), 1, _permuted(d), d.real("b", 8, "c")), "02"),
    exact("scatter.value", lambda d: call(d.real("bsc"), 1, _index(d, "s", "btc"), 2.0), "02"),
    exact("scatter.value", lambda d: call(d.real("b", 5), 0, _index(d, "b", "t", 3), 2.0)),
    case("scatter_add.default", lambda d: call(d.real("bsc"), 1, _index(d, "s", "btc"), d.real("btc")), "02"),
    case("scatter_reduce.two", lambda d: call(d.real("bsc"), 1, _index(d, "s", "btc"), d.real("btc"), "amax"), "02"),
    exact("index_put.default", lambda d: call(d.real("b", 8, "c"), [None, _row(d)], d.real("b", 3, "c")), "02"),
    exact("index_put.default", lambda d: call(d.real("b", 8, "c"), [None, _row(d)], d.real("c")), "02"),
    exact("index_put.default", lambda d: call(d.real("8bc"), [_row(d)], d.real("")), "12"),
    exact("index_put.default", lambda d: call(d.real("8b4"), [_row(d), None, _index(d, 4, 1)], d.real("3b")), "1"),
    case("index_put.default", lambda d: call(d.real("bsc"), [None, _index(d, "s", "t")], d.real("tc"), True), "02"),
    exact("index_put.default", lambda d: call(d.real("bsc"), [d.bools("bs")], d.real("c")), "012"),
    exact("index_put.default", lambda d: call(d.real("bsc"), [d.bools("bsc")], d.real("")), "012"),
    case("index_add.default", lambda d: call(d.real("bsc"), 1, _index(d, "s", "t"), d.real("btc")), "02"),
    exact("index_copy.default", lambda d: call(d.real("b", 8, "c"), 1, _row(d), d.real("b", 3, "c")), "02"),
    exact("index_fill.int_Scalar", lambda d: call(d.real("bsc"), 1, _index(d, "s", "t"), 2.0), "02"),
    exact("index_fill.int_Tensor", lambda d: call(d.real("bsc"), -2, _index(d, "s", "t"), d.real("")), "02"),
    exact("bucketize.Tensor", lambda d: call(d.real("bsc"), d.real("v").sort().values), "012"),
    exact("searchsorted.Tensor", lambda d: call(d.real("v").sort().values, d.real("bsc")), "012"),
    case("grid_sampler.default", lambda d: call(d.real("bc", 4, 5), d.unit("bhw2"), 0, 0, False), "0123"),
    case("grid_sampler_2d.default", lambda d: call(d.real("bc", 4, 5), d.unit("bhw2"), 1, 1, True), "0123"),
    case("grid_sampler_3d.default", lambda d: call(d.real("bc", 4, 5, 3), d.unit("bhwt3"), 0, 0, False), "01234"),
    exact("meshgrid.default", lambda d: call([d.real("s"), d.real("t")]), "01"),
    exact("meshgrid.indexing", lambda d: call([d.real("s"), d.real("t"), d.real("u")], indexing="ij"), "012"),
    exact("meshgrid.indexing", lambda d: call([d.real("s"), d.real("t"), d.real("u")], indexing="xy"), "012"),
    exact("zeros.default", lambda d: call(d.shape("bs"), dtype=torch.float64, device=DEVICE), "01"),
    exact("ones.default", lambda d: call(d.shape("bs"), dtype=torch.float64, device=DEVICE), "01"),
    exact("full.default", lambda d: call(d.shape("bs"), 2.0, dtype=torch.float64, device=DEVICE), "01"),
    exact("new_zeros.default", lambda d: call(d.real("c"), d.shape("bs")), "01"),
    exact("new_ones.default", lambda d: call(d.real("c"), d.shape("bs")), "01"),
    case("empty.memory_format", lambda d: call(d.shape("bs"), device=DEVICE), "01", tolerance=None),
    case("new_empty.default", lambda d: call(d.real("c"), d.shape("bs")), "01", tolerance=None),
    exact("new_full.default", lambda d: call(d.real("c"), d.shape("bs"), 2.0), "01"),
    exact("one_hot.default", lambda d: call(_index(d, "v", "bs"), d.size("v")), "01"),
]


def _row(d: Draw) -> Tensor:
    """Three different places out of eight, in an order of their own."""
    return d.real(8).argsort()[:3]


def _permuted(d: Draw) -> Tensor:
    """Every element is written once: the order of writes to one place is open."""
    return d.real("b", 8, "c").argsort(1)
