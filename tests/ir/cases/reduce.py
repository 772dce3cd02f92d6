"""Reductions, softmax, scans, sorts and norms."""

from __future__ import annotations

import torch
from torch import Tensor

from .case import Draw, call, case, exact

_REDUCTIONS = "amax.default amin.default argmax.default argmin.default prod.dim_int"
_PAIRS = "max.dim min.dim median.dim"
_SPREADS = """
    var.dim std.dim var.correction std.correction var_mean.correction var_mean.dim std_mean.dim std_mean.correction
"""
_WHOLE_SPREADS = "var.default std.default var_mean.default std_mean.default"
_WHOLE = "max.default min.default prod.default argmax.default amax.default"


def _channels(d: Draw) -> tuple[Tensor, ...]:
    return d.real("c"), d.real("c"), d.real("c"), d.positive("c")


CASES = [
    case("sum.default", lambda d: call(d.real("bsc")), sums=[(0, 0), (0, 1), (0, 2)], partial=[(0,)]),
    case("sum.dim_IntList", lambda d: call(d.real("bsc"), [1]), "01", sums=[(0, 1)], partial=[(0,)]),
    case("sum.dim_IntList", lambda d: call(d.real("bsc"), [-1, 0], True), "1", sums=[(0, 0), (0, 2)]),
    case("sum.dim_IntList", lambda d: call(d.real("bsc"), []), sums=[(0, 0)]),
    case("sum.dim_IntList", lambda d: call(d.bools("bsc"), [1]), "01", sums=[(0, 1)]),
    case("nansum.default", lambda d: call(d.real("bsc"), [1]), "01", sums=[(0, 1)]),
    exact("count_nonzero.default", lambda d: call(d.ints("bsc"), 1), "01", sums=[(0, 1)]),
    exact("count_nonzero.dim_IntList", lambda d: call(d.ints("bsc"), [0, 2]), "0", sums=[(0, 0), (0, 2)]),
    *(exact(name, lambda d: call(d.ints("bsc"), 1), "01", statistics=[1]) for name in ("all.dim", "any.dim")),
    *(exact(name, lambda d: call(d.ints("bsc")), statistics=[0, 1, 2]) for name in ("all.default", "any.default")),
    case("nanmean.default", lambda d: call(d.real("bsc"), [1]), "01"),
    exact("all.dims", lambda d: call(d.bools("bsc"), [1, 2]), "0", statistics=[1, 2]),
    exact("any.dims", lambda d: call(d.bools("bsc"), [1], True), "02", statistics=[1]),
    exact("aminmax.default", lambda d: call(d.real("bsc"), dim=1), "01"),
    exact("median.default", lambda d: call(d.real("bsc"))),
    exact("kthvalue.default", lambda d: call(d.real("bsc"), 2, 1), "01"),
    case("norm.Scalar", lambda d: call(d.real("bsc")), statistics=[0, 1, 2]),
    case("norm.ScalarOpt_dtype", lambda d: call(d.real("bsc"), 1, dtype=torch.float64), statistics=[0, 1, 2]),
    case(
        "norm.ScalarOpt_dim_dtype",
        lambda d: call(d.real("bsc"), 2, [1], False, dtype=torch.float64),
        "01",
        statistics=[1],
    ),
    case("linalg_norm.default", lambda d: call(d.real("bsc"), None, [1], True), "02"),
    case("linalg_norm.default", lambda d: call(d.real("bsc"))),
    case("special_logsumexp.default", lambda d: call(d.real("bsc"), [1]), "01"),
    case("special_softmax.default", lambda d: call(d.real("bsc"), 1), "02"),
    exact("cummax.default", lambda d: call(d.real("bsc"), 1), "02"),
    exact("cummin.default", lambda d: call(d.real("bsc"), 1), "02"),
    case("logcumsumexp.default", lambda d: call(d.real("bsc"), 1), "02"),
    case("mean.default", lambda d: call(d.real("bsc")), partial=[(0,)], statistics=[0, 1, 2]),
    case("mean.dim", lambda d: call(d.real("bsc"), [1]), "01", partial=[(0,)], statistics=[1]),
    case("mean.dim", lambda d: call(d.real("bsc"), [-2, -1], True), "0", partial=[(0,)], statistics=[1, 2]),
    case("mean.dim", lambda d: call(d.ints("bsc"), [0], dtype=torch.float64), "01", statistics=[0]),
    case("mean.dim", lambda d: call(d.complex("bsc"), [1])),
    *(exact(name, lambda d: call(d.ints("bsc"), 1), "01") for name in _REDUCTIONS.split()),
    *(exact(name, lambda d: call(d.real("bsc"), -1), "01") for name in _PAIRS.split()),
    *(exact(name, lambda d: call(d.ints("bsc"))) for name in _WHOLE.split()),
    *(case(name, lambda d: call(d.real("bsc"), [1]), "01", statistics=[1]) for name in _SPREADS.split()),
    *(case(name, lambda d: call(d.real("bsc")), statistics=[0, 1, 2]) for name in _WHOLE_SPREADS.split()),
    case("var_mean.correction", lambda d: call(d.real("bsc"), [2], correction=0, keepdim=True), "01", statistics=[2]),
    case("std.correction", lambda d: call(d.real("bsc") + 1e4, [0, 2], correction=2), "0", statistics=[0, 2]),
    case("var.dim", lambda d: call(d.real("bsc"), [1], False, True), "02", statistics=[1]),
    case("norm.ScalarOpt_dim", lambda d: call(d.real("bsc"), 2, [-1], True), "01", statistics=[2]),
    case("linalg_vector_norm.default", lambda d: call(d.real("bsc"), 2, [-1], True), "01", statistics=[2]),
    case("linalg_vector_norm.default", lambda d: call(d.real("bsc"), 1, [0]), "01", statistics=[0]),
    case("linalg_vector_norm.default", lambda d: call(d.real("bsc"), 3, [0]), "01"),
    case("linalg_vector_norm.default", lambda d: call(d.real("bsc")), statistics=[0, 1, 2]),
    case("logsumexp.default", lambda d: call(d.real("bsc"), [1]), "01"),
    *(
        case(name, lambda d: call(d.real("bsc"), -1), "01")
        for name in ("softmax.int", "_safe_softmax.default", "log_softmax.int")
    ),
    *(
        case(name, lambda d: call(d.real("bsc"), 1), "02")
        for name in ("softmax.int", "_safe_softmax.default", "log_softmax.int")
    ),
    *(
        case(name, lambda d: call(d.real("bsc"), 1, False), "02")
        for name in ("_softmax.default", "_log_softmax.default")
    ),
    case("cumsum.default", lambda d: call(d.real("bsc"), 1), "02", partial=[(0,)]),
    case("cumprod.default", lambda d: call(d.real("bsc"), 0), "12"),
    exact("sort.default", lambda d: call(d.real("bsc"), 1), "02"),
    exact("sort.stable", lambda d: call(d.real("bsc"), stable=True, dim=-1), "01"),
    exact("argsort.default", lambda d: call(d.real("bsc"), 1, True), "02"),
    exact("topk.default", lambda d: call(d.real("bsc"), 2, 1), "02"),
    exact("topk.default", lambda d: call(d.real("bs4"), 2), "01"),
    exact("tril.default", lambda d: call(d.real("bsc")), "0", partial=[(0,)]),
    exact("triu.default", lambda d: call(d.real("bsc"), 1), "0", partial=[(0,)]),
    case(
        "layer_norm.default",
        lambda d: call(d.real("bsc") + 1e4, d.shape("c"), d.real("c"), d.real("c")),
        "01",
        statistics=[2],
    ),
    case("layer_norm.default", lambda d: call(d.real("bsc"), d.shape("c")), "01", statistics=[2]),
    case("layer_norm.default", lambda d: call(d.real("bsc"), d.shape("sc"), d.real("sc")), "0", statistics=[1, 2]),
    case("rms_norm.default", lambda d: call(d.real("bshc"), d.shape("c"), d.real("c"), 1e-6), "012", statistics=[3]),
    case("rms_norm.default", lambda d: call(d.real("bsc"), d.shape("c")), "01", statistics=[2]),
    case(
        "native_layer_norm.default",
        lambda d: call(d.real("bsc"), d.shape("c"), d.real("c"), None, 1e-6),
        "01",
        statistics=[2],
    ),
    case("group_norm.default", lambda d: call(d.real("b", 6, "hw"), 3, d.real(6), d.real(6)), "01", statistics=[2, 3]),
    case("group_norm.default", lambda d: call(d.real("b", 4, "s"), 2), "01", statistics=[2]),
    case("group_norm.default", lambda d: call(d.real("bcs"), 1), "0", statistics=[1, 2]),
    case("batch_norm.default", lambda d: call(d.real("bcs"), *_channels(d), False, 0.1, 1e-5, False), "012"),
    case("batch_norm.default", lambda d: call(d.real("bcs"), None, None, None, None, True, 0.1, 1e-5, False), "1"),
    case(
        "instance_norm.default",
        lambda d: call(d.real("bc4"), None, None, None, None, True, 0.1, 1e-5, False),
        "01",
        statistics=[2],
    ),
    case("instance_norm.default", lambda d: call(d.real("bcs"), *_channels(d), False, 0.1, 1e-5, False), "01"),
]
