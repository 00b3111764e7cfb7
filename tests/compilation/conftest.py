"""Numbers must not depend on the processor of the machine that runs the tests."""

from __future__ import annotations

import pytest

from instar.targets.onnx import session


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integer products are exact with VNNI and on ARM; on other processors the runtime has to be asked for it."""
    monkeypatch.setitem(session.CONFIG, *session.EXACT_PRODUCTS)
