"""torch modules before they are read: what is no function of one tensor, and what torch.fx does not see, is refused by name.

torch.fx takes torch's own layers as they are, so it does not see what hangs on them: hooks, and a `forward` of one's own. Nor
does it see that an operation in place changes values that have another name: `h.relu_()` as a statement, then `h`. And what it
traces with are no tensors, which Python code may ask for.
"""

from __future__ import annotations

import copy
import operator
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as hooks_of_all
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from verify.deadline import OutOfTimeError
from verify.errors import ModelError, VerifyError, is_out_of_memory
from verify.loading.runner import ModuleRunner
from verify.validation import plain, shown

ELEMENT_TYPES = {torch.float32: "float32", torch.float64: "float64"}
# Hooks that only compute a weight of others: once the module has run, the weight is there.
_COMPUTES_WEIGHTS = (BasePruningMethod, SpectralNorm, WeightNorm)
_MORE = "give a module whose forward takes one tensor and returns one"


@contextmanager
def blaming(what: str, remedy: str) -> Iterator[None]:
    """What the module's own code raises becomes a ModelError: it may be anything."""
    try:
        yield
    except (VerifyError, OutOfTimeError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        said = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
        raise ModelError(f"{what} ({said}); {remedy}") from error


def admitted(
    module: object, example_input: object, taken: bool = False
) -> tuple[nn.Module, Tensor, ModuleRunner]:
    """A copy of a module on the CPU in evaluation mode, an example of its element type, and the copy as it runs.

    taken: the example is of the property's shape, which nobody said to be the module's. Raises ModelError. The module itself is not touched.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"the model is {shown(module)}; give a path, the bytes of an ONNX file, a parsed ONNX model, or a torch.nn.Module"
        )
    _check_kind(module)
    example = _example(example_input)
    with blaming(
        "the module cannot be copied to the CPU", "make its weights permanent, or export it to ONNX"
    ):
        original = _with_plain_weights(_copied(module).cpu().eval())
    kind = _element_type(original, example)
    _check_calls(original)
    runner = ModuleRunner(original, tuple(example.shape), ELEMENT_TYPES[kind])
    example = torch.zeros_like(example, device="cpu") if example.is_meta else example.cpu()
    example = example.to(kind)
    with _shape_told(tuple(example.shape)) if taken else nullcontext():
        _check_runs(runner, example.numel())
    return original, example, runner


@contextmanager
def _shape_told(shape: tuple[int, ...]) -> Iterator[None]:
    """Says of an error that it may come from the shape that the property has."""
    try:
        yield
    except ModelError as error:
        told = f"{error}; its input was taken to be {list(shape)}, as the property has it: give example_input, a tensor of the shape it takes"
        error.args = (told,)
        raise


def hangs_on_mode(module: object) -> bool:
    """Whether a layer is in training mode that computes something else there: dropout, normalisation by a batch."""
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase, nn.RReLU)
    parts = module.modules() if isinstance(module, nn.Module) else ()
    return any(part.training and isinstance(part, kinds) for part in parts)


def _copied(module: nn.Module) -> nn.Module:
    """A copy, also where attributes are results of other tensors, which Python's copy refuses: weights that hooks compute."""
    attributes = [value for part in module.modules() for value in vars(part).values()]
    results = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(module, {id(result): result.detach().clone() for result in results})


def _with_plain_weights(module: nn.Module) -> nn.Module:
    """The module, whose parametrised weights become the numbers that torch computes.

    (torch's own way to do that takes them from the class, which the module that this is a copy of has too.)
    """
    for part in list(module.modules()):
        if is_parametrized(part):
            weights = {name: getattr(part, name).detach().clone() for name in part.parametrizations}  # type: ignore[union-attr]
            del part.parametrizations
            part.__class__ = type(part).__bases__[0]
            for name, weight in weights.items():
                part.register_parameter(name, nn.Parameter(weight, requires_grad=False))
    return module


def _check_kind(module: nn.Module) -> None:
    """ModelError for modules that stand for others."""
    for name, part in module.named_modules():
        label = f"the module {name!r}" if name else "the module"
        if isinstance(part, torch.jit.ScriptModule):
            raise ModelError(
                f"{label} is TorchScript; give the module it was made from, or export it to ONNX"
            )
        if "_orig_mod" in part._modules:
            raise ModelError(f"{label} is compiled; give the module it was made from (its _orig_mod)")
        if isinstance(part, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise ModelError(f"{label} is a {type(part).__name__}; give the module in it (its .module)")


def _example(given: object) -> Tensor:
    """The example input as a tensor."""
    if given is None:
        raise ModelError(
            "a torch.nn.Module needs an example_input: a tensor of the shape it takes, its batch axis of 1 included"
        )
    if isinstance(given, tuple | list):
        raise ModelError(
            f"example_input is a {type(given).__name__}; give one tensor (of several inputs, wrap the module: {_MORE})"
        )
    tensor = given if isinstance(given, Tensor) and given.layout == torch.strided else _from_numbers(given)
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ModelError(f"example_input is {tensor.dtype}; give real numbers")
    if not tensor.dim() or not tensor.numel():
        raise ModelError(
            f"example_input has shape {list(tensor.shape)}; give a tensor of the shape that the module takes, its batch axis included"
        )
    return tensor.detach()


def _from_numbers(given: object) -> Tensor:
    numbers = plain("example_input", given)
    if numbers.dtype.kind not in "iuf":
        raise ModelError(f"example_input is {shown(given)}; give a tensor of real numbers")
    return torch.from_numpy(numbers.astype(np.float32 if numbers.dtype == np.float32 else np.float64))


def _element_type(module: nn.Module, example: Tensor) -> torch.dtype:
    """The one floating type of the module's tensors; the example's where it has none."""
    types = set()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ModelError(f"parameter {name!r} has no shape yet; run the module once")
        if tensor.is_complex():
            raise ModelError(f"parameter {name!r} is {tensor.dtype}; only real numbers are supported")
        if tensor.is_floating_point():
            types.add(tensor.dtype)
            if tensor.dtype in ELEMENT_TYPES and not bool(tensor.isfinite().all()):
                raise ModelError(f"parameter {name!r} holds NaN or infinity")
    if not types <= set(ELEMENT_TYPES) or len(types) > 1:
        found = " and ".join(sorted(map(str, types)))
        raise ModelError(f"the module's element types must all be float32 or all float64, not {found}")
    kind = types.pop() if types else example.dtype
    if kind not in ELEMENT_TYPES:
        raise ModelError(
            f"the module has no weights and example_input is {kind}; give one of float32 or float64"
        )
    return kind


def _check_calls(module: nn.Module) -> None:
    """ModelError where calling a part is more than its class's `forward`."""
    if hooks_of_all._global_forward_hooks or hooks_of_all._global_forward_pre_hooks:
        raise ModelError("torch has forward hooks on all modules, which may change results; remove them")
    for name, part in module.named_modules():
        label = f"{name!r} ({type(part).__name__})" if name else f"the module ({type(part).__name__})"
        before = [
            hook for hook in part._forward_pre_hooks.values() if not isinstance(hook, _COMPUTES_WEIGHTS)
        ]
        if part._forward_hooks or before:
            raise ModelError(
                f"{label} has forward hooks, which may change results; remove them, or write them in forward"
            )
        if "forward" in vars(part) or type(part).__call__ is not nn.Module.__call__:
            raise ModelError(
                f"{label} is called past the forward of its class; write a subclass with a forward of its own"
            )


def _check_runs(runner: ModuleRunner, size: int) -> None:
    """ModelError where the module does not run, or not twice the same."""
    sample = np.random.default_rng(0).uniform(0.1, 1.0, (1, size))
    first, second = runner(sample), runner(sample)
    if first.shape != second.shape or first.tobytes() != second.tobytes():
        raise ModelError(
            "the module gives two results for one input: it is random, or keeps state; make it a function"
        )


def check_arguments(traced: fx.GraphModule) -> None:
    """ModelError where `forward` takes more than one tensor, also where it need not be given: it is traced as if it were."""
    taken = [node.name for node in traced.graph.nodes if node.op == "placeholder"]
    if len(taken) != 1:
        raise ModelError(f"the module's forward takes {', '.join(taken) or 'nothing'}; {_MORE}")


def check_traceable(module: nn.Module, example: Tensor) -> None:
    """ModelError where torch.fx's graph is silent on what happens.

    A value may be used after an operation in place has changed it, or what is computed depend on who asks: on whether values
    are tensors, or on a tracer being at work.
    """
    traced = fx.GraphModule(module, _Tracer().trace(module))
    if not same_operations(traced, module, example):
        raise ModelError(
            "the module computes something else than what torch.fx sees of it (it may ask whether its values are tensors, which "
            "torch.fx's are not); export it to ONNX instead"
        )


def same_operations(graph: fx.GraphModule, module: nn.Module, example: Tensor) -> bool:
    """Whether a graph does with an example what its module does. Raises ModelError for one that uses what has changed in place."""
    with torch.inference_mode(False), torch.no_grad():
        with _Operations() as in_graph:
            _Versions(graph).run(in_graph.of(example))
        with _Operations() as in_module:
            module(in_module.of(example))
    return bool(in_graph.done == in_module.done)


class _Operations(TorchDispatchMode):
    """Writes down what is done with an input and all that comes of it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: list[str] = []
        # kept, so that no identity is used again
        self._derived: dict[int, Tensor] = {}

    def of(self, example: Tensor) -> Tensor:
        """An input of its own."""
        given = example.clone()
        self.done.clear()
        self._derived = {id(given): given}
        return given

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(id(part) in self._derived for part in tree_leaves((args, kwargs))):
            self.done.append(str(func))
            tensors = [part for part in tree_leaves(result) if isinstance(part, Tensor)]
            self._derived.update((id(part), part) for part in tensors)
        return result


class _Tracer(fx.Tracer):
    """Writes `h += x` down as what it is; torch.fx's own tracer makes `h = h + x` of it."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


class _Proxy(fx.Proxy):
    """A traced value with Python's operators in place."""


def _in_place(function: Callable[..., Any]) -> Callable[[_Proxy, Any], Any]:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


_OPERATORS = "iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor"
for _name in _OPERATORS.split():
    setattr(_Proxy, f"__{_name}__", _in_place(getattr(operator, _name)))


class _Versions(fx.Interpreter):
    """Runs a graph; tensors that share memory share torch's count of changes."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False
        self._known: dict[fx.Node, list[int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        for used in n.all_input_nodes:
            if _versions(self.env[used]) != self._known[used]:
                raise ModelError(
                    f"node {used.name!r} is changed in place and then used ({n.name!r}); use what the operation returns, "
                    "or make it one that is not in place"
                )
        result = super().run_node(n)
        self._known[n] = _versions(result)
        return result


def _versions(value: Any) -> list[int]:
    if isinstance(value, tuple | list):
        return [version for part in value for version in _versions(part)]
    return [value._version] if isinstance(value, Tensor) and not value.is_inference() else []
