"""Contractions: rows and columns are parallel, what is contracted leaves partial sums."""

from __future__ import annotations

import torch

from .case import call, case

I8 = torch.int8

CASES = [
    case(
        "linear.default",
        lambda d: call(d.real("bsi"), d.real("oi")),
        "012",
        sums=[(0, 2), (1, 1)],
        partial=[(0,), (1,)],
    ),
    case(
        "linear.default",
        lambda d: call(d.real("bsi"), d.real("oi"), d.real("o")),
        "012",
        sums=[(0, 2), (1, 1)],
        partial=[(0, 2), (1, 2)],
    ),
    case("linear.default", lambda d: call(d.real("si"), d.real("oi"), d.real("o")), "01", sums=[(0, 1)]),
    case(
        "matmul.default",
        lambda d: call(d.real("bhmk"), d.real("bhkn")),
        "0123",
        sums=[(0, 3), (1, 2)],
        partial=[(0,), (1,)],
    ),
    case("matmul.default", lambda d: call(d.real("bhmk"), d.real("1kn")), "0123", sums=[(0, 3), (1, 1)]),
    case("matmul.default", lambda d: call(d.real("mk"), d.real("bkn")), "012", sums=[(0, 1)]),
    case("matmul.default", lambda d: call(d.real("bmk"), d.real("k")), "01", sums=[(0, 2), (1, 0)]),
    case("matmul.default", lambda d: call(d.real("k"), d.real("bkn")), "01", sums=[(0, 0), (1, 1)]),
    case("matmul.default", lambda d: call(d.real("k"), d.real("k")), sums=[(0, 0)]),
    case("mm.default", lambda d: call(d.real("mk"), d.real("kn")), "01", sums=[(0, 1), (1, 0)], partial=[(0,), (1,)]),
    case("bmm.default", lambda d: call(d.real("bmk"), d.real("bkn")), "012", sums=[(0, 2)], partial=[(0,), (1,)]),
    case("mv.default", lambda d: call(d.real("mk"), d.real("k")), "0", sums=[(0, 1)], partial=[(0,), (1,)]),
    case("dot.default", lambda d: call(d.real("k"), d.real("k")), sums=[(0, 0)], partial=[(0,), (1,)]),
    case(
        "addmm.default",
        lambda d: call(d.real("n"), d.real("mk"), d.real("kn"), alpha=2, beta=0.5),
        "01",
        sums=[(1, 1), (2, 0)],
        partial=[(0, 1), (0, 2)],
    ),
    case(
        "addbmm.default",
        lambda d: call(d.real("mn"), d.real("bmk"), d.real("bkn"), beta=0.5, alpha=2),
        "01",
        sums=[(1, 0), (1, 2)],
        partial=[(0, 1), (0, 2)],
    ),
    case("addr.default", lambda d: call(d.real("n"), d.real("m"), d.real("n")), "01", partial=[(0, 1), (0, 2)]),
    case("_int_mm.default", lambda d: call(d.ints(32, 16).to(I8), d.ints(16, 24).to(I8)), "01", sums=[(0, 1)]),
    case("addmm.default", lambda d: call(d.real("m1"), d.real("mk"), d.real("kn")), "01", sums=[(1, 1)]),
    case(
        "baddbmm.default",
        lambda d: call(d.real("bmn"), d.real("bmk"), d.real("bkn")),
        "012",
        sums=[(1, 2), (2, 1)],
        partial=[(0, 1), (0, 2)],
    ),
    case("baddbmm.default", lambda d: call(d.real("1n"), d.real("bmk"), d.real("bkn"), beta=0.5), "012", sums=[(1, 2)]),
    case(
        "einsum.default", lambda d: call("bshd, bthd -> bhst", [d.real("bshd"), d.real("bthd")]), "0123", sums=[(0, 3)]
    ),
    case(
        "einsum.default", lambda d: call("nchw,hpc->npw", [d.real("nchw"), d.real("hpc")]), "012", sums=[(0, 1), (0, 2)]
    ),
    case("einsum.default", lambda d: call("bi,bj->b", [d.real("bi"), d.real("bj")]), "0", sums=[(0, 1), (1, 1)]),
    case(
        "einsum.default", lambda d: call("bi,i,ij->bj", [d.real("bi"), d.real("i"), d.real("ij")]), "01", sums=[(1, 0)]
    ),
    case("einsum.default", lambda d: call("ab,ab->ab", [d.real("ab"), d.real("1b")]), "01", partial=[(0,), (1,)]),
    case("einsum.default", lambda d: call("ij->ji", [d.real("ij")]), "01", partial=[(0,)]),
    case("einsum.default", lambda d: call("...i,oi->...o", [d.real("bsi"), d.real("oi")]), "012", sums=[(0, 2)]),
    case("einsum.default", lambda d: call("...ij,...j", [d.real("bij"), d.real("j")]), "01", sums=[(0, 2)]),
    case("einsum.default", lambda d: call("bii->bi", [d.real("b33")]), "0"),
    case("linalg_matmul.default", lambda d: call(d.real("bmk"), d.real("bkn")), "012", sums=[(0, 2)]),
    case("vdot.default", lambda d: call(d.real("k"), d.real("k")), sums=[(0, 0)]),
    case("inner.default", lambda d: call(d.real("bmk"), d.real("nk")), "012", sums=[(0, 2), (1, 1)]),
    case(
        "tensordot.default", lambda d: call(d.real("bkcm"), d.real("cnk"), [1, 2], [2, 0]), "012", sums=[(0, 1), (0, 2)]
    ),
    case("addmv.default", lambda d: call(d.real("m"), d.real("mk"), d.real("k"), beta=0.5), "0", sums=[(1, 1)]),
    case("addmv.default", lambda d: call(d.real(""), d.real("mk"), d.real("k"))),
    case("outer.default", lambda d: call(d.real("m"), d.real("n")), "01", partial=[(0,), (1,)]),
    case("ger.default", lambda d: call(d.real("m"), d.real("n")), "01", partial=[(0,), (1,)]),
]
