"""The time limit is kept, by looking at the clock everywhere and by a watchdog where nothing looks.

No test waits for time to pass or measures it: clocks are pretended, and what blocks blocks for ever.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from nets import property_text, random_layers, relu_model
from patience import PATIENCE

from verify import api, cli, deadline, watchdog
from verify.deadline import Deadline, OutOfTimeError, tick
from verify.watchdog import Watchdog

ROOT = Path(__file__).resolve().parents[1]


class Clock:
    """A clock that stands still until it has been looked at so often, and is far past every limit from then on."""

    def __init__(self, until: float) -> None:
        self.until, self.looks = until, 0

    @property
    def after(self) -> float:
        """Looks since it was far past every limit."""
        return max(0, self.looks - self.until)

    def __call__(self) -> float:
        self.looks += 1
        return 1e9 if self.looks > self.until else 0.0


def test_ticking_is_of_a_thread_and_of_a_place() -> None:
    tick()
    late = Deadline(0.0)
    found: list[bool] = []

    def elsewhere() -> None:
        tick()
        found.append(True)

    with late.ticking():
        with pytest.raises(OutOfTimeError):
            tick()
        with Deadline().ticking():
            tick()
        with pytest.raises(OutOfTimeError):
            tick()
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    tick()
    assert found == [True]


def written(home: Path, sizes: list[int], threshold: float) -> tuple[Path, str]:
    """A random network of ReLUs, and a property that its first output is above a threshold."""
    home.joinpath("net.onnx").write_bytes(relu_model(random_layers(7, sizes)).SerializeToString())
    inputs = sizes[0]
    return home / "net.onnx", property_text(
        [-1.0] * inputs, [1.0] * inputs, sizes[-1], f"(<= Y_0 {threshold})"
    )


@pytest.mark.parametrize(
    ("sizes", "threshold", "verdict"),
    [([3, 16, 16, 2], -1.0, "unsat"), ([20, 12, 12, 2], -6.0, "unsat"), ([3, 16, 16, 2], -0.2, "sat")],
)
def test_wherever_the_time_ends_it_is_noticed_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], threshold: float, verdict: str
) -> None:
    """Loading, attacks, roots, either way of splitting: the right verdict or `timeout`, after few more looks at the clock."""
    model, text = written(tmp_path, sizes, threshold)
    whole = Clock(math.inf)
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=whole))
    assert api.verify(model, text, timeout=60, device="cpu", preset_name="fast").verdict == verdict
    for share in np.linspace(0.001, 1.0, 8):
        clock = Clock(math.ceil(share * whole.looks))
        monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=clock))
        result = api.verify(model, text, timeout=60, device="cpu", preset_name="fast")
        assert result.verdict in ("timeout", verdict)
        assert clock.after < 10 * (1 + torch.get_num_threads())
        assert result.verdict == verdict or "time ran out" in result.reason


COMMAND = """
import sys, threading
from verify import cli, run

def stuck(*_, **__):
    {body}

run.{function} = stuck
cli.main()
"""
FOREVER = "threading.Event().wait()"


def stuck(
    home: Path, function: str, body: str, *options: object, command: str = "run"
) -> tuple[int, str, str]:
    """A command of which a function of the API does this: its code, stdout and stderr."""
    model, text = written(home, [2, 4, 2], -1000.0)
    home.joinpath("p.vnnlib").write_text(text)
    files = [model, home / "p.vnnlib"] if command == "run" else [home / "p.vnnlib", "--network", f"f={model}"]
    code = COMMAND.format(function=function, body=body)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", code, command, *files, *options]
    ran = subprocess.run(
        list(map(str, line)), capture_output=True, text=True, env=environment, timeout=PATIENCE
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_a_command_that_is_stuck_says_timeout_once(tmp_path: Path) -> None:
    code, out, err = stuck(tmp_path, "prepare", FOREVER, "--timeout", 0.01)
    assert (code, out) == (1, "timeout\n")
    assert err.startswith(f"timeout: {watchdog.REASON} (") and err.count("\n") == 1


def test_a_stuck_command_answers_in_the_form_asked_for(tmp_path: Path) -> None:
    code, out, err = stuck(tmp_path, "prepare", FOREVER, "--timeout", 0.01, "--format", "json", "--quiet")
    record = json.loads(out)
    assert (code, err) == (1, "")
    assert (record["verdict"], record["witness"], record["certificate"]) == ("timeout", None, None)
    code, out, _ = stuck(tmp_path, "prepare", FOREVER, "--timeout", 0.01, command="verify")
    assert (code, out) == (0, "timed-out\n")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("ZeroDivisionError", 70, "internal error"),
        ("MemoryError", 3, "memory"),
        ("KeyboardInterrupt", 1, "interrupted"),
    ],
)
def test_an_error_is_never_followed_by_a_verdict(tmp_path: Path, error: str, code: int, said: str) -> None:
    """Though the deadline is past, and threads of the search are in a call that never ends."""
    body = f"threading.Thread(target=threading.Event().wait).start(); raise {error}"
    found, out, err = stuck(tmp_path, "build_search", body, "--timeout", 60)
    assert (found, out) == (code, "") and said in err


def test_who_claims_first_speaks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "GRACE", 0.0)
    ended, speaking, said = threading.Event(), threading.Event(), list[str]()

    def late() -> int:
        said.append("watchdog")
        speaking.set()
        return 1

    monkeypatch.setattr(watchdog, "leave", lambda _: ended.wait())
    with Watchdog(Deadline.after(3600.0), late) as dog:
        dog.claim()
    dog = Watchdog(Deadline(0.0), late)
    dog.__enter__()
    assert speaking.wait(PATIENCE)
    main = threading.Thread(target=lambda: (dog.claim(), said.append("main")))
    main.start()
    main.join(0.2)
    assert said == ["watchdog"] and main.is_alive()
    ended.set()
    main.join()


@pytest.mark.parametrize("seconds", ["nan", "-inf", "-1", "0"])
def test_limits_that_are_none_are_refused(seconds: str) -> None:
    for arguments in (
        ["run", "m", "p", "--timeout", seconds], ["bounds", "m", "p", "--time", seconds],
        ["verify", "p", "--network", "f=m", "--timeout", seconds], ["suite", "t", "--timeout", seconds],
    ):  # fmt: skip
        assert CliRunner().invoke(cli.cli, arguments).exit_code == 2
