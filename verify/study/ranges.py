"""Ranges of outputs, as tensors: what a model can give on boxes of inputs, many at once, layer by layer if wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from verify.bounders.ibp import interval, magnitudes
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.errors import memory_kept
from verify.lagrangian.dual import DualProblem
from verify.loading import LoadedModel, check_example, load
from verify.network.graph import Network
from verify.neutral import neutral
from verify.settings import placed, preset
from verify.specification.base import ordered, parts
from verify.state import Bounds, Objective
from verify.validation import array, choice, fitting, flag, integer, output_name, refuse

if TYPE_CHECKING:
    from verify.problem import Model
    from verify.validation import Floats

METHODS = ("interval", "crown", "restricted")
_ELEMENTS = 2**22  # of one live tensor


@dataclass(frozen=True, eq=False)
class LayerRange:
    """The values before an activation. lower, upper: float64, [boxes, neurons]."""

    name: str
    operator: str
    lower: Tensor
    upper: Tensor


@dataclass(frozen=True, eq=False)
class Ranges:
    """lower, upper: float64 on the CPU, of the model's output's shape, with an axis of boxes in front where there were several.

    layers: every activation's inputs, where they were asked for.
    """

    lower: Tensor
    upper: Tensor
    layers: tuple[LayerRange, ...] = ()

    def __iter__(self) -> Iterator[Tensor]:
        """`lower, upper = output_range(..)`."""
        return iter((self.lower, self.upper))


@neutral()
def output_range(
    model: Model,
    box: Any,
    *,
    method: str = "crown",
    iterations: int = 20,
    layers: bool = False,
    differentiable: bool = False,
    device: str | torch.device = "auto",
    example_input: Tensor | None = None,
    output: str | None = None,
) -> Ranges:
    """Bounds of all outputs, wherever in a box the input is. They hold over the reals: float64, rounding errors charged.

    box: (lower, upper), arrays or tensors of the input's shape, or flat; or several boxes, with an axis of them in front. method: `interval`
    (interval arithmetic), `crown`, or `restricted` (slopes of every output's bounds optimised, in so many iterations). layers: also of
    what enters each activation. differentiable: the result has gradients with respect to the box's ends, where these are tensors that require
    some (method `interval` alone). Raises InputError and ResourceError as `verify` does.
    """
    choice("method", method, METHODS)
    steps = integer("iterations", iterations, least=0)
    wanted, graded = flag("layers", layers), flag("differentiable", differentiable)
    if graded and method != "interval":
        refuse("differentiable", f"is not for method {method}", "use method='interval'")
    ends = _ends(box)
    with memory_kept("ranges were bounded"):
        loaded, several, lower, upper = _fitted(model, ends, example_input, output)
        if graded:
            lower, upper = (
                _graded(part, own) for part, own in zip(parts("box", box, _BOX), (lower, upper), strict=True)
            )
        network = placed(loaded.network, device)
        found = bounded(network, lower, upper, method, steps)
    shape = (*((len(lower),) if several else ()), *loaded.output_shape)
    outputs = tuple(end.reshape(shape).cpu() for end in found.outputs)
    return Ranges(outputs[0], outputs[1], tuple(_layers(network, found.bounds)) if wanted else ())


_BOX = "give a pair of arrays, (lower, upper)"


def _ends(box: Any) -> tuple[Floats, Floats]:
    """The ends of one box or of several."""
    found = parts("the box", box, _BOX)
    if len(found) != 2:
        refuse("the box", f"has {len(found)} parts", _BOX)
    lower, upper = array("the lower end of the box", found[0]), array("the upper end of the box", found[1])
    if lower.shape != upper.shape:
        refuse(
            "the box",
            f"has ends of shapes {list(lower.shape)} and {list(upper.shape)}",
            "give two of one shape",
        )
    ordered("the box", lower, upper)
    return lower, upper


def _fitted(
    model: Model, ends: tuple[Floats, Floats], example_input: Tensor | None, output: str | None
) -> tuple[LoadedModel, bool, Tensor, Tensor]:
    """The model, whether there is an axis of boxes, and their ends, [boxes, inputs]."""
    lower = ends[0]
    if isinstance(model, LoadedModel):
        loaded = model
        check_example(loaded, example_input)
        if output_name(output) is not None or loaded.within is not None:
            refuse(
                "the model",
                "was loaded before, with an output of its own or for another property",
                "give its file",
            )
    else:
        shape = (1, *lower.shape[1:]) if lower.ndim > 1 else (1, lower.size)  # of one box
        loaded = load(model, example_input, output=output, hint=shape)
    several = not _fits(lower.shape, loaded.input_shape)
    if several:
        fitting("a box", lower.shape[1:], loaded.input_shape, "the model's input")
    size = prod(loaded.input_shape)
    low, high = (torch.from_numpy(end.reshape(-1, size).copy()) for end in ends)
    return loaded, several, low, high


def _fits(own: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a shape is that of one input: axes of 1 aside, or flat."""
    mine, theirs = ([size for size in shape if size != 1] for shape in (own, wanted))
    return mine == theirs or (len(mine) < 2 and prod(mine) == prod(theirs))


def _graded(end: Any, own: Tensor) -> Tensor:
    """An end as it was given, where it is a tensor with gradients."""
    if not isinstance(end, Tensor) or not end.requires_grad:
        return own
    return end.cpu().double().reshape(own.shape)


@dataclass(frozen=True)
class Found:
    """Bounds of all variables, and the outputs' ends, [boxes, outputs] each."""

    bounds: Bounds
    outputs: tuple[Tensor, Tensor]


def bounded(
    network: Network, lower: Float[Tensor, "boxes inputs"], upper: Tensor, method: str, iterations: int
) -> Found:
    """The ranges of a network, float64, by a method."""
    if not len(lower):
        refuse("the box", "is none: there are no boxes", _BOX)
    widest = max(node.size for node in network.nodes)
    at_once = max(1, _ELEMENTS // (2 * widest * max(1, network.outputs)))
    each = [
        _bounded(network, low.to(network.device), high.to(network.device), method, iterations)
        for low, high in zip(lower.split(at_once), upper.split(at_once), strict=True)
    ]
    outputs = tuple(torch.cat([one.outputs[side] for one in each]) for side in (0, 1))
    return Found(Bounds.concatenate([one.bounds for one in each]), (outputs[0], outputs[1]))


def _bounded(network: Network, lower: Tensor, upper: Tensor, method: str, iterations: int) -> Found:
    bounds, (low, high) = interval(network, lower, upper)
    if method == "interval":
        return Found(bounds, (low, high))
    working = network.to(network.device, torch.float32)
    bounds = preset("default").intermediate.tighten(network, bounds, Deadline(), working)
    _, (closer, lesser) = interval(network, lower, upper, bounds)
    neurons = torch.arange(network.outputs, device=network.device).expand(len(lower), -1)
    objective = Objective.both_ends(neurons, network.outputs, bounds.lower)
    problem = DualProblem(network, bounds, objective)
    state = problem.initial()
    if method == "restricted" and iterations:
        like = network.device, torch.float32
        rough = DualProblem(working, bounds.to(*like), objective.to(*like))
        climbed = Restricted(iterations).ascend(rough, rough.initial(), target=torch.inf)
        state = problem.clamp(climbed.state.to(network.device, torch.float64))
    found = problem.evaluate(state, magnitudes(network, bounds)).bound
    best, worst = torch.where(found.isfinite(), found, -torch.inf).chunk(2, dim=1)
    low, high = (
        torch.maximum(torch.maximum(low, closer), best),
        torch.minimum(torch.minimum(high, lesser), -worst),
    )
    return Found(bounds, (low, high))


def _layers(network: Network, bounds: Bounds) -> Iterator[LayerRange]:
    for layer in network.layers:
        ends = (end[:, layer.variables].cpu() for end in (bounds.lower, bounds.upper))
        yield LayerRange(network.nodes[layer.node].name, layer.activation.name, *ends)
