"""How long tests wait for what an idle machine has done in a moment: for so long that only what hangs takes longer.

A test that ends by this limit fails. So it says nothing of how fast anything is, and a loaded machine passes as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 600.0


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Waits for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
