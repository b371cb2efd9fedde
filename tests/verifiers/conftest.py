"""One pool for the folder's tests, closed at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from heartloop_verifiers import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    shared = Pool(1)
    yield shared
    shared.close()
