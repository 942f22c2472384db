"""The command, killed as the system kills: `make faults` does more of it, at random moments."""

from __future__ import annotations

from pathlib import Path

from patience import PATIENCE, until

import verify
from benchmarks.faults import ended, narrow, started, workers_of
from verify.checker.checking import check


def test_an_owner_that_is_killed_goes_on(tmp_path: Path) -> None:
    """Its workers end with it, and the certificate that it had begun is whole in the end."""
    instance, kept, proof = narrow(tmp_path / "instance", 1e-3), tmp_path / "kept", tmp_path / "proof"
    options = "--checkpoint", str(kept), "--certificate", str(proof)
    process = started(instance, *options, "--workers", "2")
    until(lambda: (kept / "journal").exists() or process.poll() is not None)
    there = workers_of(process.pid)
    process.kill()
    process.communicate()
    assert len(there) == 2 and not proof.exists()
    until(lambda: not any(Path(f"/proc/{number}/cmdline").exists() for number in there))
    told = ended(started(instance, *options, "--workers", "1"), PATIENCE)
    assert told["verdict"] == instance.verdict and told["statistics"]["checkpoint"]["resumed"]
    assert told["statistics"]["workers"]["workers"] == 1 and not told["statistics"]["workers"]["lost"]
    assert check(proof, instance.model, instance.specification).proved
    # what is decided already is not decided again
    again = verify.verify(
        instance.model, instance.specification, checkpoint=kept, certificate=tmp_path / "other"
    )
    assert again.verdict == instance.verdict and not again.statistics["checkpoint"]["written"]
    assert (tmp_path / "other").read_bytes() == proof.read_bytes()
