"""Worker groups that tests share as long as they leave them whole."""

from collections.abc import Iterator

import pytest

from fastvideo.runtime.executors import WorkerGroup

from .programs import CPU


@pytest.fixture(scope="session")
def pair() -> Iterator[WorkerGroup]:
    with_two = WorkerGroup(2, CPU)
    yield with_two
    assert with_two.alive, "a test broke the shared group"
    with_two.close()


@pytest.fixture(scope="session")
def trio() -> Iterator[WorkerGroup]:
    with_three = WorkerGroup(3, CPU)
    yield with_three
    assert with_three.alive, "a test broke the shared group"
    with_three.close()


@pytest.fixture(params=["pair", "trio"])
def group(request: pytest.FixtureRequest) -> WorkerGroup:
    """2 and 3 ranks."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, WorkerGroup)
    return found
