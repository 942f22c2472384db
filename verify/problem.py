"""A problem: a loaded model and a property of it, ready to be decided.

The property's clauses ("unsafe where x in box and C y + E x <= d") become `Objective` tensors on demand, so a
property with many thousand clauses costs memory only for the ones at hand. A witness is *replayed*: rounded to the
network's own element type inside the exact box, run in ONNX Runtime, and judged by exact arithmetic on what came out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verify.deadline import Deadline, tick
from verify.errors import InputError, memory_kept
from verify.formats.vnnlib import Property
from verify.formats.vnnlib2 import Query, parse, read
from verify.loading import LoadedModel, check_example, load, load_joint
from verify.network.ball import Ball
from verify.neutral import neutral
from verify.specification import PropertyBuilder
from verify.state import Objective, is_wide, outward
from verify.validation import is_text, path, refuse, shown

if TYPE_CHECKING:
    import onnx

    from verify.loading.loaded import Source

    Model = str | Path | bytes | onnx.ModelProto | torch.nn.Module | LoadedModel
    Spec = str | Path | Property | Query | PropertyBuilder


T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Witness:
    """An input that violates the property, and the outputs that the replay gave."""

    inputs: NDArray[np.floating]  # of the model's element type, in its input shape
    outputs: NDArray[np.floating]
    snapped: int = 0  # inputs whose interval was extended to the nearest number of the element type
    # all tensors, as the property names them
    variables: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)  # their element types there
    of_query: bool = False  # whether the property is a VNN-LIB 2.0 query
    clause: int = -1  # that it shows to be unsafe


@dataclass(frozen=True)
class Problem:
    """A model and a property that fit together. Raises InputError where they do not.

    ball: that all inputs in question lie in, besides their boxes, by a row of every clause. text: of a property that was built in Python.
    """

    model: LoadedModel
    specification: Property
    ball: Ball | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        for name, part, kind in (
            ("model", self.model, LoadedModel),
            ("specification", self.specification, Property),
        ):
            if not isinstance(part, kind):
                refuse(f"the {name} of a Problem", f"is {shown(part)}", f"give a {kind.__name__}")
        network, spec = self.model.network, self.specification
        if (spec.inputs, spec.outputs) != (network.inputs, network.outputs):
            raise InputError(
                f"{spec.source}: the property speaks of {spec.inputs} inputs and {spec.outputs} outputs, but the network "
                f"has {network.inputs} and {network.outputs} (input {self.model.input_name} "
                f"{list(self.model.input_shape)}, output {self.model.output_name} {list(self.model.output_shape)}). "
                "Check that model and property belong together."
            )
        spec = spec.of_types(self.model.input_kinds)
        object.__setattr__(self, "specification", spec)
        if self.model.within is not None and not spec.vacuous:
            _check_known(*_hull(spec), self.model.within, spec.source)

    @property
    def vacuous(self) -> str | None:
        """Why the property holds whatever the model, if it does so as it is written."""
        spec = self.specification
        if not spec.vacuous:
            return None
        why = "its input box is empty" if spec.empty_box else "no alternative with an input is left"
        return f"{spec.source}: the property is vacuous: {why} as it is written, so it holds for every model"

    @property
    def notes(self) -> tuple[str, ...]:
        """How model and property were read, where their user should know: such as what is not as the standard of VNN-LIB has it."""
        return (*self.model.notes, *self.specification.notes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """All that whoever wrote the property should know: how it was read, and whether it is vacuous."""
        return (*self.notes, *([] if self.vacuous is None else [self.vacuous]))

    @property
    def clauses(self) -> int:
        return len(self.specification.clauses)

    @cached_property
    def box_of(self) -> NDArray[np.int64]:
        """The number of each clause's box."""
        return np.asarray(self.specification.box_ids, dtype=np.int64)

    def boxes(self, clauses: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Lower and upper ends of the clauses' boxes, float64 [len, inputs], rounded outward."""
        lower, upper = self.specification.bounds(clauses)
        return torch.from_numpy(np.array(lower)), torch.from_numpy(np.array(upper))

    @property
    def free_inputs(self) -> int:
        """How many inputs have some freedom, in the box that has the most."""
        return self._free_and_snapped[0]

    @property
    def snapped(self) -> int:
        """How many inputs lie in intervals that hold no number of their element type, in the box that has the most."""
        return self._free_and_snapped[1]

    @cached_property
    def _free_and_snapped(self) -> tuple[int, int]:
        _, first = np.unique(self.box_of, return_index=True)
        free = snapped = 0
        for start in range(0, len(first), 1024):
            tick()
            clauses = [int(clause) for clause in first[start : start + 1024]]
            extended = torch.from_numpy(self.specification.extended(clauses))
            free = max(free, int((is_wide(*self.boxes(clauses)) & ~extended).sum(1).max()))
            snapped = max(snapped, int(extended.sum(1).max()))
        return free, snapped

    @property
    def rows(self) -> int:
        """The most rows that a clause has, at least 1."""
        return max(1, self.specification.rows)

    def objective(self, clauses: Sequence[int]) -> Objective:
        """The clauses' rows, [len, 1, rows, ..], in float64; shorter conjunctions repeat their first row."""
        tick()
        outputs, inputs, thresholds = self.specification.matrices(clauses)
        inputs = np.zeros((*thresholds.shape, 0)) if inputs is None else inputs
        return Objective(*(torch.from_numpy(part[:, None]) for part in (outputs, thresholds, inputs)))

    def replay(self, clause: int, x: Tensor) -> Witness | None:
        """The witness that `x` ([inputs]) rounds to, or None where ONNX Runtime's outputs do not violate the property.

        Inputs lie inside the clause's box and everything is judged at them, outputs strictly.
        """
        inputs = np.clip(self.model.rounded(x.detach().cpu().double().numpy()), *self._inner_bounds(clause))
        outputs = self.model.evaluate(inputs).reshape(-1)
        exact = [float(value) for value in inputs]
        if not np.isfinite(outputs).all() or not self.specification.violated(
            exact, self.model.judged(exact, outputs), clause
        ):
            return None
        variables = self.model.variables(inputs, outputs)
        tensors = {name: tensor for name, (_, tensor) in variables.items()}
        types = {name: kind for name, (kind, _) in variables.items()}
        shaped = inputs.reshape(self.model.input_shape), outputs.reshape(self.model.output_shape)
        snapped = int(self.specification.extended([clause]).sum())
        return Witness(*shaped, snapped, tensors, types, self.model.of_query, clause)

    def _inner_bounds(self, clause: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The clause's box within the inputs' own element types."""
        bounds = [
            (self.specification.inner_bounds(clause, kind), mine) for kind, mine in self.model.input_kinds
        ]
        if len(bounds) == 1:
            return bounds[0][0]
        masks = [mine for _, mine in bounds]
        lower, upper = (
            np.select(masks, [ends[side].astype(np.float64) for ends, _ in bounds]) for side in (0, 1)
        )
        return lower, upper


@neutral()
def prepare(
    model: Model | Mapping[str, Source],
    specification: Spec,
    example_input: Tensor | None = None,
    deadline: Deadline | None = None,
    output: str | None = None,
    as_file: bool = False,
) -> Problem:
    """Loads both and checks that they belong together. Raises InputError, and OutOfTimeError at the deadline.

    output: the name of the output that a property of one output is of, where the model has several. as_file: see `load`.
    A VNN-LIB 2.0 query takes models by the names of its networks, of all that are not equal to another one; a single one may come alone.
    """
    deadline = deadline or Deadline()
    with deadline.ticking(), memory_kept("model and property were loaded"):
        _check_order(model, specification)
        spec = _read(specification, deadline)
        if output is not None and (isinstance(spec, Query) or isinstance(model, LoadedModel)):
            refuse(
                "output",
                f"is {output!r}",
                "a query, or what was loaded before, says itself what its outputs are; leave it out",
            )
        if isinstance(spec, Query) and isinstance(model, torch.nn.Module | LoadedModel):
            return _of_one_model(model, spec, example_input, as_file)
        if isinstance(spec, Query):
            return Problem(load_joint(spec, _by_name(spec, model)), spec.property)
        if isinstance(model, Mapping):
            model = _only(model, spec)
        loaded = (
            model
            if isinstance(model, LoadedModel)
            else load(
                model,
                example_input,
                _boxes(spec),
                output=output,
                hint=_shape(spec),
                hull=partial(_hull, spec),
                as_file=as_file,
            )
        )
        if isinstance(model, LoadedModel):
            check_example(loaded, example_input)
        return _built(loaded, spec, deadline) if isinstance(spec, PropertyBuilder) else Problem(loaded, spec)


def _of_one_model(
    model: torch.nn.Module | LoadedModel, query: Query, example_input: Tensor | None, as_file: bool
) -> Problem:
    """A query all of whose networks are one model that is not given as an ONNX file, each of one input and one output."""
    from verify.loading.composed import check_interface, side_by_side_with_itself
    from verify.loading.joint import moderate

    given = query.networks[0].inputs[0]
    if isinstance(model, LoadedModel):
        loaded = model
    else:
        places, box = query.input_of[: given.size], None
        if len(query.property.clauses):
            lower, upper = moderate(*query.property.some_boxes())
            box = lower[:, places], upper[:, places]
        loaded = load(model, example_input, box, hint=given.shape, as_file=as_file)
    check_interface(loaded, query)
    return Problem(side_by_side_with_itself(loaded, query), query.property)


def _built(loaded: LoadedModel, builder: PropertyBuilder, deadline: Deadline) -> Problem:
    """A property built in Python, of a model that is known now: of the model itself, or of what the property puts around it."""
    if loaded.of_query:
        refuse("the model", "is what a query was read with", "give the model that it was made of")
    text = builder.text_for(loaded.input_shape, loaded.output_shape)
    spec = parse(text, f"<{type(builder).__name__}>", deadline)
    around = isinstance(spec, Query) or builder.front is not None
    if around and loaded.within is not None:
        _check_known(*_hull(builder), loaded.within, f"<{type(builder).__name__}>")
    if isinstance(spec, Query):
        from verify.loading.composed import side_by_side_with_itself

        joint = side_by_side_with_itself(loaded, spec, builder.centre)
        return Problem(joint, spec.property, _ball(builder, loaded), text)
    if builder.front is not None:
        from verify.loading.composed import behind

        loaded = behind(builder.front, loaded)
    return Problem(loaded, spec, text=text)


def _ball(builder: PropertyBuilder, loaded: LoadedModel) -> Ball | None:
    """The ball that a property's inputs lie in, if its builder knows one."""
    if builder.norm is None or builder.centre is None:
        return None
    norm, weights, radius = builder.norm
    centre, scale = (torch.from_numpy(np.array(part).reshape(-1)) for part in (builder.centre, weights))
    return Ball(norm, centre, scale, radius, loaded.network.outputs)


def _check_known(lower: Tensor, upper: Tensor, within: tuple[Tensor, Tensor], source: str | None) -> None:
    """InputError where a box leaves the one that a model is known in."""
    if bool((lower < within[0]).any() | (upper > within[1]).any()):
        raise InputError(
            f"{source}: the model was loaded for another property, on whose inputs alone it is known: its inputs choose places. "
            "Give the model's file instead."
        )


def _check_order(model: object, specification: object) -> None:
    """InputError where a model and a property have changed places, by the names of their files or by what they are."""
    of_property = isinstance(model, PropertyBuilder | Property | Query) or _named(model, ".vnnlib")
    of_model = isinstance(specification, torch.nn.Module | LoadedModel | bytes) or _named(
        specification, (".onnx", ".nnet")
    )
    if of_property and of_model:
        raise InputError("model and property have changed places; the model comes first")


def _named(source: object, ending: str | tuple[str, ...]) -> bool:
    """Whether a source is a file of such a name, packed or not."""
    return isinstance(source, str | Path) and str(source).lower().removesuffix(".gz").endswith(ending)


def _only(models: Mapping[str, Source], spec: Property | PropertyBuilder) -> Source:
    """The model of a property that is of one network, which any name stands for."""
    if any(isinstance(model, Tensor) for model in models.values()):
        refuse("the model", "is a dictionary of tensors, as state_dict gives it", "give the module")
    if len(models) != 1:
        source = spec.source if isinstance(spec, Property) else "the specification"
        raise InputError(
            f"{source}: a property of VNN-LIB 1.0 is of one network; give one --network, not {len(models)}"
        )
    return next(iter(models.values()))


def _read(specification: object, deadline: Deadline) -> Property | Query | PropertyBuilder:
    """A specification in any form, files and text read."""
    if isinstance(specification, Property | Query | PropertyBuilder):
        return specification
    if is_text(specification):
        return parse(specification, deadline=deadline)
    if not isinstance(specification, str | Path):
        refuse(
            "the specification",
            f"is {shown(specification)}",
            "the model comes first, then a path, VNN-LIB text, or a property such as LinfBall or Specification",
        )
    return read(path("the specification", specification), deadline)


def _boxes(spec: Property | PropertyBuilder) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Where the network that is read is compared with the model."""
    if isinstance(spec, PropertyBuilder):
        return spec.ends()
    return None if spec.vacuous else spec.some_boxes()


def _hull(spec: Property | PropertyBuilder) -> tuple[Tensor, Tensor]:
    """A box that all inputs in question lie in, also those that intervals without a number of their type are extended to."""
    if isinstance(spec, PropertyBuilder):
        lower, upper = (np.asarray(end, dtype=np.float64).reshape(-1) for end in spec.ends())
    else:
        lower, upper = np.full(spec.inputs, np.inf), np.full(spec.inputs, -np.inf)
        for clause in np.unique(spec.box_ids, return_index=True)[1].tolist():
            tick()
            ends = spec.bounds([clause])
            lower, upper = np.minimum(lower, ends[0][0]), np.maximum(upper, ends[1][0])
    return outward(torch.from_numpy(lower), -torch.inf).double(), outward(
        torch.from_numpy(upper), torch.inf
    ).double()


def _shape(spec: Property | PropertyBuilder) -> tuple[int, ...]:
    """The shape of the inputs that a property speaks of, flat where it does not say it."""
    return (spec.inputs,) if isinstance(spec, Property) else spec.ends()[0].shape


def of_networks(query: Query, models: Mapping[str, T]) -> dict[str, T]:
    """Models by the names of their networks; one without a name is that of the first network that none is given for."""
    without = [name for name in query.implemented if name not in models]
    return {without[0] if not name and without else name: model for name, model in models.items()}


def _by_name(query: Query, models: Any) -> Mapping[str, Source]:
    """The models of a query; `load_joint` checks what they are."""
    if isinstance(models, Mapping):
        return of_networks(query, models)
    if len(query.implemented) != 1:
        names = ", ".join(query.implemented)
        raise InputError(
            f"{query.property.source}: the query has several networks ({names}); give a model for each"
        )
    return dict.fromkeys(query.implemented, models)
