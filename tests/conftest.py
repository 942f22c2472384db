"""What all tests share: one torch thread, a reproducible hypothesis profile, and skips where there is no GPU."""

from __future__ import annotations

import math
import os
import signal
import sys

import pytest
import torch
from hypothesis import HealthCheck, settings

from verify import settings as settings_module
from verify import watchdog
from verify.checker import runtime
from verify.room import forget

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # the tests import it themselves
torch.set_num_threads(1)

settings.register_profile(
    "verify",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("verify")

# Shells start what runs in the background with these ignored, and so would be the processes that tests start and end.
for _kind in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_kind) is signal.SIG_IGN:
        signal.signal(_kind, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def no_command_ends_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that tests run in their own process wait for themselves, however slow the machine, and limit no memory.

    What one test does to memory is forgotten in the next.
    """
    monkeypatch.setattr(watchdog, "GRACE", math.inf)
    monkeypatch.setattr(watchdog, "leave", sys.exit)
    monkeypatch.setattr(settings_module, "enforce", lambda: None)
    monkeypatch.setattr(runtime, "_MOST_MEMORY", math.inf)
    forget()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where torch sees no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="torch sees no CUDA device")
    for item in items:
        if item.get_closest_marker("gpu") is not None:  # not a keyword: folders may be called so, too
            item.add_marker(skip)
