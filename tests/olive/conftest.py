"""The one fixture that the tests against Microsoft Olive share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.layered_environment import NoEnvironment
from tests.olive.environment import ask, olive_python


@pytest.fixture(scope="session")
def ask_olive() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Puts a request to Olive, see probe.py. Tests that need it are skipped, saying why, where Olive cannot be installed."""
    try:
        return partial(ask, olive_python())
    except NoEnvironment as error:
        pytest.skip(str(error))
