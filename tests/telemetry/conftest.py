from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def seen() -> Iterator[object]:
    """What is exported from now on (:class:`tests.telemetry.exported.Seen`)."""
    pytest.importorskip(
        "opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed (requirements-dev.txt)"
    )
    from tests.telemetry.exported import Seen

    held = Seen()
    yield held
    held.close()
