"""Torch as it is by default, whatever modes its user has set for code of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def neutral() -> Iterator[None]:
    """Within it tensors are made on the CPU unless a device is named, and no operation casts its operands."""
    with torch.inference_mode(False), ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if (
            torch.get_default_device().type != "cpu"
        ):  # a mode that every operation passes through, so not for nothing
            stack.enter_context(torch.device("cpu"))
        yield
