"""Ops that cut or join along a dim."""

from __future__ import annotations

from .case import Call, Draw, call, exact

ONE = [(0,)]


def _sizes(d: Draw) -> list[int]:
    return d.shape("xyz")


def _total(d: Draw) -> int:
    return sum(_sizes(d))


def _twice(d: Draw) -> Call:
    x = d.real("bs")
    return call([x, -x, x], 1)


CASES = [
    exact("slice.Tensor", lambda d: call(d.real("b", 9, "c"), 1, 2, 7), "012", partial=ONE),
    exact("slice.Tensor", lambda d: call(d.real("b", 9, "c"), 1, -4), "012", partial=ONE),
    exact("slice.Tensor", lambda d: call(d.real("b", 9, "c"), -2, 0, 2), "012", partial=ONE),
    exact("slice.Tensor", lambda d: call(d.real("bsc"), 1, 0, 2**63 - 1), "012", partial=ONE),
    exact("slice.Tensor", lambda d: call(d.real("b", 9, "c"), 1, 1, None, 2), "02", partial=ONE),
    exact("slice.Tensor", lambda d: call(d.real("b", 9, "c"), 1, 0, 100, 3), "02", partial=ONE),
    exact("slice.Tensor", lambda d: call(d.real("bsc"), 1, 1, 1), "02", partial=ONE),
    exact("narrow.default", lambda d: call(d.real("b", 9, "c"), 1, 2, 5), "012", partial=ONE),
    exact("narrow.default", lambda d: call(d.real("b", 9, "c"), -2, -4, 3), "012", partial=ONE),
    exact("split.Tensor", lambda d: call(d.real("b", 12, "c"), 4, 1), "012", partial=ONE),
    exact("split.Tensor", lambda d: call(d.real("b", 11, "c"), 4, -2), "012", partial=ONE),
    exact("split.sizes", lambda d: call(d.real("b", _total(d)), _sizes(d), 1), "01", partial=ONE),
    exact("split_with_sizes.default", lambda d: call(d.real(_total(d), "c"), _sizes(d)), "01", partial=ONE),
    exact("split_with_sizes.default", lambda d: call(d.real(7, "c"), [3, 0, 4]), "01", partial=ONE),
    exact("chunk.default", lambda d: call(d.real("b", 12), 3, -1), "01", partial=ONE),
    exact("chunk.default", lambda d: call(d.real("b", 10), 4, -1), "01", partial=ONE),
    exact("tensor_split.sections", lambda d: call(d.real("b", 10), 4, -1), "01", partial=ONE),
    exact("tensor_split.indices", lambda d: call(d.real("b", 10), [2, 7], -1), "01", partial=ONE),
    exact("select.int", lambda d: call(d.real("bsc"), 1, -1), "01", partial=ONE),
    exact("unbind.int", lambda d: call(d.real("bsc"), 1), "01", partial=ONE),
    *(
        one
        for name in ("cat.default", "concat.default", "concatenate.default")
        for one in (
            exact(name, lambda d: call([d.real("bsc"), d.real("btc")], 1), "012", partial=[(0, 1)]),
            exact(name, lambda d: call([d.real("bs"), d.real("bt"), d.real("b1")], -1), "01", partial=[(0, 1, 2)]),
            exact(name, lambda d: call([d.real("0"), d.real("bs"), d.real("0s"), d.real("cs")]), "01"),
            exact(name, lambda d: call([d.real("bsc")], 1), "012", partial=ONE),
            exact(name, _twice, "01"),
        )
    ),
    exact("stack.default", lambda d: call([d.real("bs"), d.real("bs"), d.real("bs")], 1), "02", partial=[(0, 1, 2)]),
    *(
        exact(f"{name}.default", lambda d: call([d.real("sbc"), d.real("tbc")]), "012")
        for name in ("vstack", "row_stack")
    ),
    *(
        exact(f"{name}.default", lambda d: call([d.real("bsc"), d.real("btc")]), "012", partial=[(0, 1)])
        for name in ("hstack", "column_stack")
    ),
    *(exact(f"{name}.default", lambda d: call([d.real("s"), d.real("s")])) for name in ("hstack", "vstack", "dstack")),
    exact("dstack.default", lambda d: call([d.real("bcs"), d.real("bct")]), "012"),
    exact("pad_sequence.default", lambda d: call([d.real("sbc"), d.real("tbc")], True), "23"),
    exact("pad_sequence.default", lambda d: call([d.real("sb"), d.real("tb"), d.real("sb")], False, 0.5), "2"),
    exact("unsafe_split.Tensor", lambda d: call(d.real("b", 12, "c"), 4, 1), "012", partial=ONE),
    exact("unsafe_split_with_sizes.default", lambda d: call(d.real(7, "c"), [3, 4]), "01", partial=ONE),
    exact("unsafe_chunk.default", lambda d: call(d.real("b", 10), 4, -1), "01", partial=ONE),
    exact("stack.default", lambda d: call([d.real("bs"), d.real("bs")], -1), "01", partial=[(0, 1)]),
    exact(
        "slice_scatter.default",
        lambda d: call(d.real("b", 9, "c"), d.real("b", 4, "c"), 1, 3, 7),
        "02",
        partial=[(0, 1)],
    ),
    exact("select_scatter.default", lambda d: call(d.real("bsc"), d.real("bc"), 1, 1), "02", partial=[(0, 1)]),
    exact("rot90.default", lambda d: call(d.real("bsc"), 1, [0, 2]), "1", partial=ONE),
    exact("rot90.default", lambda d: call(d.real("bsc"), -2, [1, -1]), "0", partial=ONE),
    exact("flip.default", lambda d: call(d.real("bsc"), [1]), "02", partial=ONE),
    exact("roll.default", lambda d: call(d.real("bsc"), [1, 2], [0, -1]), "1", partial=ONE),
    exact("roll.default", lambda d: call(d.real("bsc"), [2]), partial=ONE),
    exact("constant_pad_nd.default", lambda d: call(d.real("bsc"), [1, 2]), "01", partial=ONE),
    exact("constant_pad_nd.default", lambda d: call(d.real("bsc"), [0, 0, 1, -1], 2.0), "02"),
    exact("pad.default", lambda d: call(d.real("bsc"), [0, 0, 0, 3]), "02", partial=ONE),
    exact("pad.default", lambda d: call(d.real("bs", 4), [1, 2], "circular"), "01"),
    exact("pad.default", lambda d: call(d.real("bs", 4), [1, 2], "replicate"), "01"),
    exact("reflection_pad1d.default", lambda d: call(d.real("bs", 5), [2, 3]), "01"),
    exact("replication_pad1d.default", lambda d: call(d.real("bs", 5), [2, 3]), "01"),
    exact("reflection_pad3d.default", lambda d: call(d.real("bs", 5, 4, 3), [1, 1, 0, 0, 2, 1]), "013"),
    exact("reflection_pad2d.default", lambda d: call(d.real("bs", 5, 4), [2, 3, 0, 0]), "01"),
    exact("replication_pad2d.default", lambda d: call(d.real("bs", 5, 4), [2, 3, 1, 1]), "01"),
    exact("replication_pad3d.default", lambda d: call(d.real("bs", 5, 4, 3), [2, 3, 1, 1, 1, 1]), "01"),
]
