"""Loading: an ONNX model or a torch.nn.Module becomes a `LoadedModel` (the network IR and the ground truth).

Nothing heavy is imported before a model is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify.checker.runtime import start
from verify.loading.guard import IN_MEMORY, reading
from verify.loading.loaded import LoadedModel
from verify.validation import axes, fitting, output_name, path, plain, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from verify.formats.vnnlib2 import Query
    from verify.loading.loaded import Source

__all__ = ["LoadedModel", "load", "load_joint"]


def load(
    model: str | Path | bytes | onnx.ModelProto | nn.Module,
    example_input: Tensor | None = None,
    box: tuple[NDArray[Any], NDArray[Any]] | None = None,
    fold: bool = True,
    output: str | None = None,
    hint: Sequence[int] = (),
    hull: Callable[[], tuple[Tensor, Tensor]] | None = None,
    as_file: bool = False,
) -> LoadedModel:
    """Loads a model and compares the result with the model's own runtime.

    model: a path or bytes of an ONNX file (gzipped or not), a parsed ONNX model, or a torch.nn.Module.
    example_input: of a torch.nn.Module: a tensor of the shape it takes, its batch axis of 1 included.
    box: lower and upper bounds of the inputs, of one box or several ([boxes, inputs]); the comparison then samples there.
    fold: merge consecutive affine maps; off, every map keeps the file's own weights (see fold.py).
    output: the name of the output that the property is of, where an ONNX file has several.
    hint: the shape of an input, or how many numbers it has; settles sizes that an ONNX file leaves open, and a module's where there is
        no example.
    hull: gives the least box that all inputs in question lie in; of an ONNX model in which inputs choose places.
    as_file: a torch.nn.Module is exported, the network read from that file, and both are compared (`LoadedModel.export`).
    Raises ModelError (UnsupportedOperatorError for an operator without a rule).
    """
    output, hint = output_name(output), axes("hint", hint)
    if isinstance(model, str | Path):
        model = path("the model", model)
    of_onnx = isinstance(model, Path | bytes) or _is_onnx(model)
    if of_onnx:
        start()  # while the rest is imported and the file is read
    from verify.loading.comparison import check_agreement
    from verify.neutral import neutral

    with reading(str(model) if isinstance(model, Path) else IN_MEMORY), neutral():
        if of_onnx:
            from verify.loading.onnx.graph import from_onnx

            told = hint if example_input is None else _shape(example_input)
            loaded = from_onnx(model, fold, output, told, hull)  # type: ignore[arg-type]
            check_example(loaded, example_input)
        else:
            from verify.loading.torch.tracing import from_module

            if output is not None:
                refuse("output", f"is {output!r}", "only ONNX files have outputs with names; leave it out")
            loaded = from_module(model, example_input, fold, hint)  # type: ignore[arg-type]  # it checks what the model is
        check_agreement(loaded, box)
        if as_file and not of_onnx:
            from verify.loading.torch.as_file import from_export

            loaded = from_export(model, loaded, fold, box)  # type: ignore[arg-type]
    return loaded


def _is_onnx(model: object) -> bool:
    if not hasattr(model, "SerializeToString"):
        return False
    import onnx  # loaded by whoever made the model

    return isinstance(model, onnx.ModelProto)


def check_example(loaded: LoadedModel, example_input: Tensor | None) -> None:
    """InputError where an example is not of a model's shape, which is known without it."""
    if example_input is not None:
        fitting("example_input", _shape(example_input), loaded.input_shape, "the model's input")


def _shape(example_input: Tensor) -> tuple[int, ...]:
    """The shape of an example, which may be nested sequences."""
    return tuple(getattr(example_input, "shape", None) or plain("example_input", example_input).shape)


def load_joint(query: Query, models: Mapping[str, Source], fold: bool = True) -> LoadedModel:
    """Loads the models of a VNN-LIB 2.0 query, by the names of its networks, as one joint network.

    Its inputs and outputs are those that `query.property` speaks of. It is compared with the models' own runtime as in
    `load`. Raises ModelError, also where a model is missing, surplus, or not what the query declares.
    """
    start()
    from verify.loading.joint import joint

    return joint(query, models, fold)
