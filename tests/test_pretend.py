"""The pretended device itself: it refuses what a GPU would, and no wait goes by unseen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pretend import DEVICE, MixedDevicesError, pretended
from torch import Tensor

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a true device")


@pytest.mark.parametrize(
    "mixed",
    [
        lambda there, here: there + here, lambda there, here: there @ here, lambda there, here: torch.cat([there, here]),
        lambda there, here: there.index_put_((torch.zeros(2, dtype=torch.long, device=DEVICE),), here),
        lambda there, here: there.gather(0, here.long()), lambda there, here: torch.where(here > 0, there, there),
        lambda there, here: here.scatter_add(0, there.long(), here), lambda there, here: here[there.long()],
        lambda there, here: torch.add(here, here, out=there), lambda there, here: here.numpy() @ there.numpy(),
    ],
)  # fmt: skip
def test_devices_do_not_mix(mixed: Callable[[Tensor, Tensor], object]) -> None:
    with pretended():
        there, here = torch.zeros(2, device=DEVICE), torch.zeros(2)
        with pytest.raises((MixedDevicesError, TypeError)):
            mixed(there, here)


def test_single_numbers_and_copies_do() -> None:
    with pretended():
        there, number = torch.arange(3.0, device=DEVICE), torch.tensor(2.0)
        found = torch.where(there > number, there * number, number)
        there[:] = torch.ones(3)
        assert found.tolist() == [2.0, 2.0, 2.0]
        assert there.cpu().tolist() == [1.0, 1.0, 1.0]
        assert there.device == DEVICE
        assert there[torch.tensor([0, 2])].shape == (2,)


@pytest.mark.parametrize(
    ("kind", "waiting"),
    [
        ("number", lambda x: x.sum().item()), ("number", lambda x: bool((x > 0).any())), ("number", lambda x: int(x[0])),
        ("number", lambda x: torch.equal(x, x)), ("size", lambda x: x.nonzero()), ("size", lambda x: x.unique()),
        ("size", lambda x: x.long().bincount()), ("size", lambda x: x.masked_select(x > 0)),
        ("size", lambda x: x.repeat_interleave(x.long())), ("mask", lambda x: x[x > 0]),
        ("mask", lambda x: x.index_put_((x > 0,), x[:2].clone())), ("index", lambda x: x[torch.tensor([0])]),
        ("copy back", lambda x: x.cpu()), ("copy back", lambda x: x.tolist()), ("copy back", lambda x: torch.zeros(3).copy_(x)),
        ("copy there", lambda x: torch.ones(3).to(DEVICE)), ("copy there", lambda x: torch.tensor([1.0], device=DEVICE)),
        ("copy there", lambda x: x.copy_(torch.ones(3))), ("copy there", lambda x: torch.ones(3).to(DEVICE, non_blocking=True)),
    ],
)  # fmt: skip
def test_waits_are_seen(kind: str, waiting: Callable[[Tensor], object]) -> None:
    with pretended() as journal:
        x = torch.arange(3.0, device=DEVICE)
        with journal.during() as found:
            waiting(x)
    assert {why for why, _ in found.waits} == {kind}
    assert found.waited >= 1


@pytest.mark.parametrize(
    "free",
    [
        lambda x: x[x.long()], lambda x: x[:2].clone(), lambda x: torch.full((2,), 3.0, device=DEVICE), lambda x: x.sort(),
        lambda x: x.repeat_interleave(2), lambda x: x.masked_fill(x > 0, 1.0), lambda x: x.topk(2), lambda x: x.float() + 1,
        lambda x: torch.where(x > 0, x, 0.0), lambda x: torch.ones(3).pin_memory().to(DEVICE, non_blocking=True),
        lambda x: x.to("cpu", non_blocking=True), lambda x: torch.zeros(2, device=DEVICE), lambda x: x.new_zeros(2),
    ],
)  # fmt: skip
def test_nothing_else_waits(free: Callable[[Tensor], object]) -> None:
    with pretended() as journal:
        x = torch.arange(3.0, device=DEVICE)
        with journal.during() as found:
            free(x)
    assert not found.waits


def test_masked_assignment_waits() -> None:
    with pretended() as journal:
        x = torch.arange(3.0, device=DEVICE)
        x[x > 0] = torch.ones(2, device=DEVICE)
        assert journal.waited == 1
        x[x > 0] = 2.0  # a fill
        assert journal.waited == 1
        assert x.tolist() == [0.0, 2.0, 2.0]


def test_lists_are_indices() -> None:
    with pretended() as journal:
        x = torch.arange(3.0, device=DEVICE)
        x[[0, 2]] = torch.ones(2, device=DEVICE)
        assert journal.waits[("copy there", "elsewhere")] == 1
        assert x[[2, 1]].tolist() == [1.0, 1.0]
        assert x[None][([0], [1])].tolist() == [1.0]


def test_what_is_under_way_cannot_be_read() -> None:
    """Until something waits: on a GPU it would be there by chance."""
    with pretended():
        x = torch.ones(2, device=DEVICE)
        early, late = x.to("cpu", non_blocking=True), (2 * x).to("cpu", non_blocking=True)
        with pytest.raises(MixedDevicesError, match="not arrived"):
            early + 1
        x.cpu()
        assert (early + late).tolist() == [3.0, 3.0]


def test_gradients_are_its_own() -> None:
    with pretended():
        x = torch.ones(2, device=DEVICE, requires_grad=True)
        (gradient,) = torch.autograd.grad((x * x).sum(), x)
        assert gradient.device == DEVICE
        assert gradient.tolist() == [2.0, 2.0]


def test_nothing_is_left_behind() -> None:
    with pretended():
        assert torch.cuda.is_available()
    assert not torch.cuda.is_available()
    assert torch.ones(2).sum() == 2
