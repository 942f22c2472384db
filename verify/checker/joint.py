"""The networks of a VNN-LIB 2.0 query side by side, as one network: each is its model once more, at its own inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np

from verify.checker.builder import Builder, Value
from verify.checker.errors import Refused
from verify.checker.network import Network
from verify.checker.onnx_model import Model, Tensors
from verify.checker.query2 import Interface
from verify.checker.query2_networks import HIDDEN, INPUT, OUTPUT, REAL, Declared, Variable
from verify.checker.rationals import Shape

Products: TypeAlias = Sequence[tuple[int, ...]]  # their factors, by codes


class Placed(NamedTuple):
    """A network, its model, and the model's tensors at the network's inputs."""

    network: Declared
    model: Model
    tensors: Tensors


def read_joint(interface: Interface, contents: Mapping[str, bytes]) -> Network:
    """The joint network, of the contents of the models' files by the networks' names. Raises Refused."""
    models = {name: Model(contents[name]) for name in interface.implemented}
    kinds = types_of_inputs(interface, models)
    builder = Builder(joint_shape(interface, models))
    placed, first = list[Placed](), 0
    for network in interface.networks:
        model, given = models[network.equal_to or network.name], []
        check_count(network, INPUT, len(model.shapes))
        for variable, shape in zip(network.of(INPUT), model.shapes, strict=True):
            check_shape(variable, shape)
            places = np.array(interface.input_of[first : first + variable.size])
            given.append(builder.gather(builder.input, places.reshape(shape)))
            first += variable.size
        placed.append(Placed(network, model, model.at(builder, given)))
    values = [value for pick in (outputs_of, hidden_of) for one in placed for value in pick(one)]
    joint = builder.concatenate([builder.reshape(value, (value.size,)) for value in values], 0)
    return replace(builder.network(with_products(builder, joint, interface.products)), element_type=kinds)


def types_of_inputs(interface: Interface, models: Mapping[str, Model]) -> tuple[str, ...]:
    """The element type of each joint input: the narrowest of those that it stands for, which have to be as they are declared."""
    found, first = ["float64"] * (1 + max(interface.input_of)), 0
    for network in interface.networks:
        for variable, kind in zip(
            network.of(INPUT), models[network.equal_to or network.name].kinds, strict=False
        ):
            check_type(variable, kind)
            if kind == "float32":
                for place in interface.input_of[first : first + variable.size]:
                    found[place] = kind
            first += variable.size
    return tuple(found)


def check_type(variable: Variable, kind: str) -> None:
    """Refuse an element type that is another one than is declared."""
    if variable.element_type not in (REAL, kind):
        raise Refused(f"{variable.name} is declared as {variable.element_type}, and is {kind}")


def joint_shape(interface: Interface, models: Mapping[str, Model]) -> Shape:
    """The shape of the joint input: that of the first network's first one, if that is all there is, else flat."""
    size = 1 + max(interface.input_of)
    first = models[interface.networks[0].name].shapes[:1]
    return first[0] if first and math.prod(first[0]) == size else (size,)


def check_count(network: Declared, kind: str, count: int) -> None:
    """Refuse a model that has not as many inputs or outputs as are declared."""
    if len(network.of(kind)) != count:
        raise Refused(
            f"the model has {count} {kind}s, the query declares {len(network.of(kind))} of {network.name}"
        )


def check_shape(variable: Variable, shape: Shape) -> None:
    """Refuse a shape that is another one than is declared, axes of length 1 left out."""
    if [size for size in shape if size != 1] != [size for size in variable.shape if size != 1]:
        raise Refused(f"{variable.name} is declared as {list(variable.shape)}, and is {list(shape)}")


def outputs_of(placed: Placed) -> list[Value]:
    """A network's outputs."""
    network, names = placed.network, placed.model.outputs
    check_count(network, OUTPUT, len(names))
    pairs = zip(network.of(OUTPUT), names, strict=True)
    return [value_of(placed, variable, name) for variable, name in pairs]


def hidden_of(placed: Placed) -> list[Value]:
    """A network's hidden variables."""
    return [
        value_of(placed, variable, placed.model.tensor_name(variable.onnx))
        for variable in placed.network.of(HIDDEN)
    ]


def value_of(placed: Placed, variable: Variable, name: str) -> Value:
    """A tensor of a model, which has to be as it is declared."""
    value = placed.tensors.value(name)
    check_shape(variable, value.shape)
    check_type(variable, placed.tensors.kind(name))
    return value


# -- products


def with_products(builder: Builder, joint: Value, products: Products) -> Value:
    """The joint outputs with products behind them, each made of two halves that are made once: by degree, squares first."""
    if not products:
        return joint
    inputs, outputs = builder.input.size, joint.size
    pool = builder.concatenate([builder.reshape(builder.input, (inputs,)), joint], 0)
    places: dict[tuple[int, ...], int] = {(2 * i,): i for i in range(inputs)}
    places |= {(2 * j + 1,): inputs + j for j in range(outputs)}
    needed = with_halves(products)
    for degree in sorted({len(factors) for factors in needed} - {1}):
        group = sorted(factors for factors in needed if len(factors) == degree)
        squares = [factors for factors in group if len(set(halves(factors))) == 1]
        others = [factors for factors in group if len(set(halves(factors))) == 2]
        new = []
        if squares:
            roots = np.array([places[halves(factors)[0]] for factors in squares])
            new.append(builder.activation("square", builder.gather(pool, roots)))
        if others:
            left, right = (
                np.array([places[half] for half in side]) for side in zip(*map(halves, others), strict=True)
            )
            new.append(builder.product(builder.gather(pool, left), builder.gather(pool, right)))
        places |= {factors: pool.size + k for k, factors in enumerate([*squares, *others])}
        pool = builder.concatenate([pool, *new], 0)
    wanted = [*range(inputs, inputs + outputs), *(places[factors] for factors in products)]
    return builder.gather(pool, np.array(wanted))


def with_halves(products: Products) -> set[tuple[int, ...]]:
    """Products, and all halves that they are made of."""
    found: set[tuple[int, ...]] = set()
    left = list(products)
    while left:
        factors = left.pop()
        if factors not in found:
            found.add(factors)
            left += halves(factors) if len(factors) > 1 else ()
    return found


def halves(factors: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A product's factors in two; an even power's halves are equal."""
    if len(factors) % 2 == 0 and factors[0::2] == factors[1::2]:
        return factors[0::2], factors[1::2]
    middle = (len(factors) + 1) // 2
    return factors[:middle], factors[middle:]
