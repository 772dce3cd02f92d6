"""Ops that rearrange dims. All move values unchanged, and partial sums with them."""

from __future__ import annotations

import torch

from .case import Call, Draw, call, exact

ONE = [(0,)]


def _merged(d: Draw) -> int:
    return d.size("h") * d.size("c")


def _regrouped(d: Draw, shuffle: bool = False) -> Call:
    """Any reshape: the same prime factors grouped twice, with ones strewn in; shuffled, the shapes may interlock."""
    primes = [d.random.choice((2, 3)) for _ in range(d.random.randint(1, 5))]
    source = _grouped(d, primes)
    if shuffle:
        d.random.shuffle(primes)
    return call(d.real(*source), _grouped(d, primes))


def _grouped(d: Draw, primes: list[int]) -> list[int]:
    sizes = [1]
    for prime in primes:
        if d.random.random() < 0.5:
            sizes.append(1)
        sizes[-1] *= prime
    return sizes


CASES = [
    *(
        one
        for name in ("view.default", "reshape.default", "_unsafe_view.default")
        for one in (
            exact(name, lambda d: call(d.real("bs", _merged(d)), d.shape("bshc")), "0123", partial=ONE),
            exact(name, lambda d: call(d.real("bshc"), [d.size("b"), -1, _merged(d)]), "012", partial=ONE),
            exact(name, lambda d: call(d.real("bshc"), [-1]), "0", partial=ONE),
            exact(name, lambda d: call(d.real("b1hc"), [d.size("b"), 1, _merged(d), 1]), "02", partial=ONE),
            exact(name, lambda d: call(d.real("b", 4, 3), [d.size("b"), 3, 4]), "0", partial=ONE),
            exact(name, lambda d: call(d.real("b", 6, 4), [d.size("b"), 3, 2, 2, 2]), "01234", partial=ONE),
            exact(name, lambda d: call(d.real("b", 6, 4), [d.size("b"), 2, 12]), "012", partial=ONE),
            exact(name, lambda d: call(d.real("b", 12, 5), [d.size("b"), 2, 3, 10]), "012", partial=ONE),
            exact(name, lambda d: call(d.real("1"), []), partial=ONE),
            exact(name, _regrouped, partial=ONE),
            exact(name, lambda d: _regrouped(d, shuffle=True), partial=ONE),
            exact(name, lambda d: call(d.real("0b"), [d.size("b"), 0, 2])),
        )
    ),
    exact("flatten.using_ints", lambda d: call(d.real("bshc"), 2), "012", partial=ONE),
    exact("flatten.using_ints", lambda d: call(d.real("bshc"), 1, 2), "012", partial=ONE),
    exact("unflatten.int", lambda d: call(d.real("bs", _merged(d)), -1, [-1, d.size("c")]), "0123", partial=ONE),
    *(
        exact(f"{name}.default", lambda d: call(d.real("bs", _merged(d)), d.real("bshc")), "0123", partial=ONE)
        for name in ("view_as", "reshape_as")
    ),
    exact("ravel.default", lambda d: call(d.real("bsc")), "0", partial=ONE),
    exact("squeeze.default", lambda d: call(d.real("b1s1")), "01", partial=ONE),
    exact("squeeze.dim", lambda d: call(d.real("b1s"), 1), "01", partial=ONE),
    exact("squeeze.dim", lambda d: call(d.real("b1s"), 2), "02", partial=ONE),
    exact("squeeze.dims", lambda d: call(d.real("b1s1"), [1, 2]), "01", partial=ONE),
    exact("unsqueeze.default", lambda d: call(d.real("bs"), 1), "02", partial=ONE),
    exact("unsqueeze.default", lambda d: call(d.real("bs"), -1), "01", partial=ONE),
    exact("permute.default", lambda d: call(d.real("bshc"), [0, 2, -1, 1]), "0123", partial=ONE),
    exact("transpose.int", lambda d: call(d.real("bshc"), 1, -2), "0123", partial=ONE),
    exact("movedim.int", lambda d: call(d.real("bshc"), 1, -1), "0123", partial=ONE),
    exact("movedim.intlist", lambda d: call(d.real("bshc"), [0, 1], [2, 0]), "0123", partial=ONE),
    exact("t.default", lambda d: call(d.real("bs")), "01", partial=ONE),
    exact("t.default", lambda d: call(d.real("s")), "0", partial=ONE),
    exact("numpy_T.default", lambda d: call(d.real("bs")), "01", partial=ONE),
    exact("matrix_H.default", lambda d: call(d.complex("bs")), "01", partial=ONE),
    *(
        exact(f"{name}.default", lambda d: call(d.complex("bsc")), "012", partial=ONE)
        for name in ("mT", "mH", "adjoint")
    ),
    exact("swapaxes.default", lambda d: call(d.real("bshc"), 1, -2), "0123", partial=ONE),
    exact("swapdims.default", lambda d: call(d.real("bshc"), 0, 2), "0123", partial=ONE),
    exact("moveaxis.int", lambda d: call(d.real("bshc"), 1, -1), "0123", partial=ONE),
    exact("moveaxis.intlist", lambda d: call(d.real("bshc"), [0, 1], [2, 0]), "0123", partial=ONE),
    exact("expand.default", lambda d: call(d.real("b1c"), [-1, d.size("s"), -1]), "012", partial=ONE),
    exact("expand.default", lambda d: call(d.real("c"), d.shape("bsc")), "012", partial=ONE),
    exact("broadcast_to.default", lambda d: call(d.real("s1"), d.shape("bsc")), "012", partial=ONE),
    exact("expand_as.default", lambda d: call(d.real("s1"), d.real("bsc")), "012", partial=ONE),
    exact("repeat.default", lambda d: call(d.real("bs"), [2, 1, 3]), "012", partial=ONE),
    exact("repeat.default", lambda d: call(d.real("1s"), [4, 2]), "01", partial=ONE),
    exact("tile.default", lambda d: call(d.real("bsc"), [3, 2]), "012", partial=ONE),
    exact("repeat_interleave.self_int", lambda d: call(d.real("bsc"), 3, 1), "012", partial=ONE),
    exact("repeat_interleave.self_int", lambda d: call(d.real("s"), 2), "0", partial=ONE),
    exact("repeat_interleave.self_int", lambda d: call(d.real("5s"), 2, 0, output_size=10), "01", partial=ONE),
    exact("repeat_interleave.self_int", lambda d: call(d.real("bs"), 2), "0", partial=ONE),
    exact("view.dtype", lambda d: call(d.real("bsc"), torch.int64), "012"),
    exact("view.dtype", lambda d: call(d.real("bs4"), torch.float32), "01"),
    exact("view.dtype", lambda d: call(d.real("bs4").float(), torch.float64), "01"),
    exact("broadcast_tensors.default", lambda d: call([d.real("s1"), d.real("b1c")]), "012"),
    exact("channel_shuffle.default", lambda d: call(d.real("b", 12, "s"), 3), "012", partial=ONE),
    exact("view_as_complex.default", lambda d: call(d.real("bsc2")), "012", partial=ONE),
    exact("view_as_real.default", lambda d: call(d.complex("bsc")), "012", partial=ONE),
]
