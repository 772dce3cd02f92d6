"""The report asks for every setting once and goes on where it stopped; its page shows what was run and what not."""

from __future__ import annotations

import json

from .meshes import settings
from .page import page
from .report import DATA, PAGE, tasks
from .zoo import ZOO

ROW = {
    "class": "Wan",
    "setting": "sp=2",
    "error": 2e-16,
    "work": 1.015,
    "attention": 1.0,
    "collectives": {"all_to_all": 6, "all_gather": 1},
    "block": {"all_to_all": 2},
    "block_bytes": 1200,
    "floor_bytes": 1000,
    "gathers": [["sp", "cheaper"], ["sp", "needed", "aten.sort.default"]],
    "unwanted": [["sp", "needed", "aten.sort.default"]],
    "scrambled": True,
    "wrong": [],
}


def asked(done: set[tuple[str, str]]) -> list[tuple[str, str]]:
    found = []
    for number, heads, batch, meshes in tasks(done):
        case = ZOO[number]
        chosen = [s for s in settings(case) if (s.heads, s.batch) == (heads, batch) and s.mesh in meshes]
        found += [(case.name, str(setting)) for setting in chosen]
    return found


def test_every_setting_is_run_once() -> None:
    every = {(case.name, str(setting)) for case in ZOO for setting in settings(case)}
    order = asked(set())
    assert len(order) == len(every)
    assert set(order) == every


def test_rows_that_are_there_are_not_run_again() -> None:
    done = set(asked(set())[:100])
    assert set(asked(done)) == set(asked(set())) - done


def test_page_shows_each_row_and_how_many_are_missing() -> None:
    refused = {"class": "WanDecoder", "setting": "sp=2", "refused": "axis 'sp' | of 2 ranks", "wrong": []}
    moved = {"collectives": 2, "bytes": 7}
    plans = [{"class": "Wan", "ranks": 2, "blocks": "blocks", "theirs": moved, "ours": moved}]
    slow = ROW | {"setting": "tp=2", "wrong": ["work"]}
    text = page([ROW, refused, slow], plans)
    assert "- Wan, tp=2: work" in text
    cells = "| Wan | norms and modulation | sp=2 | 2e-16 | 1.015 | 1.00 | 2 a2a | 1.20 |"
    assert f"{cells} 1 cheaper, 1 for aten.sort.default | same |" in text
    assert "- `sp`, aten.sort.default: Wan\n" in text
    assert "| WanDecoder | – | sp=2 | refused | – | – | axis 'sp' / of 2 ranks | – | – |  |" in text
    assert "3 rows: 2 ran, 1 are refused; " in text
    assert "| Wan | 2 | blocks | 2 | 7 | 2 | 7 |" in text


def test_page_is_what_the_data_say() -> None:
    data = json.loads(DATA.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page(data["rows"], data["hand_written_plans"])
