"""Proofs that several files of tests change."""

from __future__ import annotations

import pytest
from kits import MAKERS, Kit


@pytest.fixture(scope="session")
def kits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kit]:
    """All of them; made once. Tests write what they check: a certificate's file is as the last one left it."""
    folder = tmp_path_factory.mktemp("kits")
    return {name: make(folder) for name, make in MAKERS.items()}
