"""Memory is kept: a budget, from which sizes follow, and one kind of error wherever it runs out."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from nets import property_text, random_layers, relu_model

from verify import cli, memory, problem, run, verify
from verify.bab.loop import BranchAndBound
from verify.errors import InputError, ResourceError, is_out_of_memory, memory_kept
from verify.memory import Memory

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30


# -- what it is called


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((10**9,), np.dtype("f8")),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried .."),
        RuntimeError("[enforce fail] err == 0. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUSOLVER_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        RuntimeError("cuDNN Frontend error: [cudnn_frontend] Error: No valid execution plans built."),
        RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
        RuntimeError("cudaErrorMemoryAllocation"),
        RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at \"CUDACachingAllocator.cpp\":983"),
        RuntimeError("std::bad_alloc"),
        Exception("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 9"),
        Exception("[ONNXRuntimeError] : 1 : FAIL : bad allocation"),
        RuntimeError("can't start new thread"),
        RuntimeError("could not create a primitive"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)  # fmt: skip
def test_the_words_of_libraries(error: Exception) -> None:
    assert is_out_of_memory(error)
    with pytest.raises(ResourceError, match="memory ran out while it went on"), memory_kept("it went on"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not fit"), RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), InputError("node 'out of memory': not supported"),
        OSError(errno.ENOENT, "none"), ValueError(),
    ],
)  # fmt: skip
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)), memory_kept("it went on"):
        raise error


# -- the budget


def test_all_sizes_follow_the_budget() -> None:
    small, large, larger = (Memory(size * GIB) for size in (1, 16, 64))
    assert small.own + small.of_runtime == GIB
    assert small.store < large.store == larger.store == GIB
    assert small.at_once(800) == 100 and large.at_once(800) == larger.at_once(800) == 800
    assert small.at_once(1) == 1
    assert small.at_once(800, 1) == 400 and small.at_once(800, 16) == 25
    assert 8 * small.entries <= small.own


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("files", "least"),
    [
        ({"memory.max": "max", "a/b/memory.max": "3000", "a/memory.max": "2000"}, 2000),
        ({"memory.max": "1000"}, 1000),  # a container that sees its own group as the top one
        (
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/a/b/memory.limit_in_bytes": "700",
            },
            700,
        ),
        ({"memory/a/memory.limit_in_bytes": "600", "memory/a/b/memory.limit_in_bytes": "700"}, 600),
        ({"memory/memory.limit_in_bytes": "nonsense"}, None),
        ({}, None),
    ],
)
def test_control_groups_limit_it(
    files: dict[str, str], least: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of both versions, the outer ones too."""
    for name, text in files.items():
        write(tmp_path / name, text)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    write(tmp_path / "self", "5:memory:/a/b\n4:cpu,cpuacct:/\n0::/a/b\n")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "self")
    found = list(memory._limits())
    assert found[0] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert min(found[1:], default=None) == least or (least is None and min(found[1:]) > 10**18)


@pytest.mark.parametrize(
    ("text", "size"),
    [("3G", 3 * GIB), ("500m", 500 * 2**20), ("2.5GiB", 5 * 2**29), ("1073741824", GIB), ("1kb", 1024), ("7B", 7)],
)  # fmt: skip
def test_sizes_are_read(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_chosen", None)
    CliRunner().invoke(cli.cli, ["run", "none.onnx", "none.vnnlib", "--memory", text])
    assert memory.budget() == Memory(size)
    memory.choose(None)


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "3X", "G", "1e9", "٣G", "0.1b"])
def test_what_is_no_size_is_refused(text: str) -> None:
    ran = CliRunner().invoke(cli.cli, ["run", "m", "p", "--memory", text])
    assert ran.exit_code == 2 and "no size" in ran.output


# -- running out


def asked() -> tuple[Any, str]:
    """A random network, and a property that its first output is above -5."""
    text = property_text([-1.0] * 3, [1.0] * 3, 2, "(<= Y_0 -5.0)")
    return relu_model(random_layers(7, [3, 16, 16, 2])), text


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception) -> Iterator[None]:
    """Within it, a function finds no memory."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        yield


@pytest.mark.parametrize(
    "place", [(problem, "read"), (problem, "load"), (run, "build_search"), (BranchAndBound, "_roots")]
)
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")])
def test_in_python_it_is_one_kind_of_error(
    place: tuple[Any, str], error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, text = asked()
    write(tmp_path / "p.vnnlib", text)
    with failing(monkeypatch, *place, error), pytest.raises(ResourceError, match="memory ran out while"):
        verify(model, tmp_path / "p.vnnlib", device="cpu")


def test_the_command_keeps_to_its_budget(tmp_path: Path) -> None:
    """What is asked for beyond it fails with code 3, and not by the kernel's hand."""
    code = "import numpy, sys\nfrom verify import cli, problem\nproblem.load = lambda *_, **__: numpy.ones(2**29)\ncli.main()"
    write(tmp_path / "p.vnnlib", asked()[1])
    command = [sys.executable, "-c", code, "run", "none.onnx", str(tmp_path / "p.vnnlib"), "--memory"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for size, said in (
        ("3G", "memory ran out while model and property were loaded"),
        ("50M", "before it begins"),
    ):
        ran = subprocess.run(
            [*command, size], capture_output=True, text=True, env=environment, timeout=300, check=False
        )
        assert (ran.returncode, ran.stdout) == (3, "") and said in ran.stderr
