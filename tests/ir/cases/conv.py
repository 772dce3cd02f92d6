"""Convolutions, pooling and resizing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .case import Call, Draw, call, case, exact

ONE = [(0,)]


def image(rank: int, size: int, *args: Any) -> Callable[[Draw], Call]:
    """A cube of ``rank`` dims with batch and channels, and further arguments."""
    return lambda d: call(d.real("bc", *[size] * rank), *args)


def same_padding(rank: int) -> Callable[[Draw], Call]:
    return lambda d: call(d.real("bi", *[4] * rank), d.real("oi", *[3] * rank), d.real("o"), [1], "same")


CASES = [
    case(
        "conv1d.default",
        lambda d: call(d.real("bi", 9), d.real("oi3"), d.real("o"), [1], [1]),
        "012",
        sums=[(0, 1), (1, 1)],
        partial=[(0, 2)],
    ),
    case(
        "conv1d.default", lambda d: call(d.real("bi", 8), d.real("oi2"), None, [2]), "012", sums=[(0, 1)], partial=ONE
    ),
    case("conv1d.default", lambda d: call(d.real("bi", 9), d.real("oi2"), d.real("o"), [2]), "01"),
    case(
        "conv2d.default",
        lambda d: call(d.real("bi", 6, 8), d.real("oi", 3, 2), d.real("o"), [3, 2]),
        "0123",
        sums=[(0, 1)],
        partial=[(0, 2)],
    ),
    case("conv2d.default", lambda d: call(d.real("bi", 5, 6), d.real("oi11"), d.real("o")), "0123", sums=[(0, 1)]),
    case("conv2d.default", lambda d: call(d.real("bi", 5, 6), d.real("oi", 1, 3), d.real("o"), [1], [0, 1]), "0123"),
    case("conv2d.default", lambda d: call(d.real("bi", 7, 6), d.real("oi22"), None, [1], [0], [2]), "01"),
    case(
        "conv2d.default",
        lambda d: call(d.real("b", 6, 5, 5), d.real(4, 3, 3, 3), d.real(4), [1], [1], [1], 2),
        "0123",
        sums=[(0, 1)],
    ),
    case(
        "conv2d.default", lambda d: call(d.real("b", 6, 5, 5), d.real(6, 1, 3, 3), d.real(6), [1], [1], [1], 6), "0123"
    ),
    case("conv2d.default", lambda d: call(d.real("bi", 7, 4), d.real("oi", 5, 3), None, [1], [6, 1], [3, 1]), "0123"),
    case("conv2d.default", lambda d: call(d.real("bi", 8, 6), d.real("oi33"), None, [2], [1]), "0123"),
    case("conv2d.default", lambda d: call(d.real("b", 4, 4, 4), d.real(8, 1, 2, 2), None, [2], [0], [1], 4), "0123"),
    case("conv2d.default", lambda d: call(d.real("i", 5, 5), d.real("oi33"), d.real("o"))),
    case(
        "conv3d.default",
        lambda d: call(d.real("bi", 3, 4, 6), d.real("oi", 1, 2, 2), d.real("o"), [1, 2, 2]),
        "01234",
        sums=[(0, 1)],
        partial=[(0, 2)],
    ),
    case("conv3d.default", lambda d: call(d.real("bi", 4, 4, 4), d.real("oi333"), d.real("o"), [1], [1]), "01234"),
    *(
        case(
            f"conv{n}d.padding",
            same_padding(n),
            "01234"[: n + 2],
        )
        for n in (1, 2, 3)
    ),
    case("conv2d.padding", lambda d: call(d.real("bi", 4, 6), d.real("oi22"), d.real("o"), [2], "valid"), "0123"),
    case(
        "convolution.default",
        lambda d: call(d.real("bi", 4, 6), d.real("oi22"), d.real("o"), [2], [0], [1], False, [0], 1),
        "0123",
        sums=[(0, 1)],
    ),
    case(
        "convolution.default",
        lambda d: call(d.real("bi", 4, 3), d.real("io33"), d.real("o"), [2], [1], [1], True, [1], 1),
        "01",
    ),
    case(
        "fv.conv_replicate",
        lambda d: call(d.real("bi", 3, 7, 8), d.real("oi", 2, 3, 5), None, [1, 1, 2], [0, 2, 2], [1, 2, 1], 1),
        "0134",
    ),
    case(
        "fv.conv_halo",
        lambda d: call(d.real("b", 6, 5, 4), d.real(4, 3, 3, 3), d.real(4), [1, 1], [1, 1], [1, 1], 2, 2, "x"),
        "0123",
    ),
    case(
        "conv_transpose1d.default",
        lambda d: call(d.real("bi", 5), d.real("io3"), d.real("o"), [2], [1]),
        "01",
        sums=[(0, 1)],
    ),
    case(
        "conv_transpose2d.input", lambda d: call(d.real("bi", 4, 3), d.real("io33"), d.real("o"), [2], [1], [1]), "01"
    ),
    case("conv_transpose3d.input", lambda d: call(d.real("bi", 2, 3, 2), d.real("io222"), None, [2]), "01234"),
    case(
        "conv_transpose2d.input",
        lambda d: call(d.real("b", 6, 3, 3), d.real(6, 2, 3, 3), d.real(4), [2], [1], [1], 2),
        "01",
    ),
    *(case(f"avg_pool{n}d.default", image(n, 6, [2] * n), "01234"[: n + 2], partial=ONE) for n in (1, 2, 3)),
    *(exact(f"max_pool{n}d.default", image(n, 6, [2] * n), "01234"[: n + 2]) for n in (1, 2, 3)),
    *(case(f"avg_pool{n}d.default", image(n, 7, [2] * n), "01", partial=ONE) for n in (1, 2, 3)),
    exact("max_pool2d.default", lambda d: call(d.real("bc", 6, 6), [3, 3], [3, 2], [0, 1]), "012"),
    exact("max_pool2d.default", lambda d: call(d.real("bc", 6, 6), [2, 3], [], [0, 0], [2, 1]), "013"),
    *(case(f"adaptive_avg_pool{n}d.default", image(n, 5, [2] * n), "01", partial=ONE) for n in (1, 2, 3)),
    *(case(f"adaptive_avg_pool{n}d.default", image(n, 6, [3] * n), "01234"[: n + 2]) for n in (1, 2, 3)),
    case("avg_pool2d.default", lambda d: call(d.real("c", 6, 5), [2, 3], [1, 1]), "0"),
    case("adaptive_avg_pool1d.default", lambda d: call(d.real("c", 6), [4]), "0"),
    *(exact(f"upsample_nearest{n}d.vec", image(n, 3, None, [2.0] * n), "01234"[: n + 2]) for n in (1, 2, 3)),
    *(exact(f"upsample_nearest{n}d.vec", image(n, 3, None, [2.3] * n), "01") for n in (1, 2, 3)),
    *(exact(f"upsample_nearest{n}d.vec", image(n, 6, [2] * n, None), "01234"[: n + 2]) for n in (1, 2, 3)),
    *(exact(f"upsample_nearest{n}d.default", image(n, 3, [9] * n), "01234"[: n + 2]) for n in (1, 2, 3)),
    exact("upsample_nearest2d.default", lambda d: call(d.real("bc", 3, 4), [6, 4]), "0123", partial=ONE),
    *(exact(f"_upsample_nearest_exact{n}d.vec", image(n, 4, [8] * n, None), "01234"[: n + 2]) for n in (1, 2, 3)),
    exact("_upsample_nearest_exact2d.vec", lambda d: call(d.real("bc", 3, 4), [5, 7], None), "01"),
    case("upsample_linear1d.vec", lambda d: call(d.real("bc", 4), [8], False, None), "01", partial=ONE),
    case("upsample_linear1d.default", lambda d: call(d.real("bc", 4), [7], True), "01"),
    case("upsample_bilinear2d.vec", lambda d: call(d.real("bc", 3, 4), [5, 7], False, None), "01"),
    case("upsample_bilinear2d.default", lambda d: call(d.real("bc", 3, 4), [5, 7], True), "01"),
    case("_upsample_bilinear2d_aa.vec", lambda d: call(d.real("bc", 6, 8), [3, 4], False, None), "01"),
    case("_upsample_bicubic2d_aa.vec", lambda d: call(d.real("bc", 6, 8), [3, 4], False, None), "01"),
    case("upsample_bicubic2d.vec", lambda d: call(d.real("bc", 3, 4), [5, 7], False, None), "01"),
    case("upsample_bicubic2d.default", lambda d: call(d.real("bc", 3, 4), [6, 8], True), "01", partial=ONE),
    case("upsample_trilinear3d.vec", lambda d: call(d.real("bc", 3, 2, 4), [5, 3, 7], False, None), "01"),
    exact("pixel_shuffle.default", lambda d: call(d.real("b", 12, "hw"), 2), "0123", partial=ONE),
    exact("pixel_unshuffle.default", lambda d: call(d.real("bc", 6, 9), 3), "0123", partial=ONE),
]
