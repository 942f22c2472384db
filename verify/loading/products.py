"""Products of variables as outputs: what makes polynomial assertions linear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from verify.loading.builder import Builder, Value
from verify.network.activations.square import Square


def with_products(
    builder: Builder, inputs: Value, outputs: Value, products: Sequence[tuple[int, ...]]
) -> Value:
    """The outputs with the products behind them, each made of two halves that are made once: by degree, squares before others, in the order
    of their factors (as docs/certificate-format.md has them)."""
    builder.label = "products"
    pool = side_by_side(builder, [inputs, outputs])
    places: dict[tuple[int, ...], int] = {(2 * i,): i for i in range(inputs.size)}
    places |= {(2 * j + 1,): inputs.size + j for j in range(outputs.size)}
    needed = set(products)
    for factors in sorted(needed, key=len, reverse=True):
        _add_halves(needed, factors)
    for degree in sorted({len(factors) for factors in needed} - {1}):
        group = sorted(factors for factors in needed if len(factors) == degree)
        squares = [factors for factors in group if len(set(_halves(factors))) == 1]
        others = [factors for factors in group if len(set(_halves(factors))) == 2]
        new = []
        if squares:
            roots = builder.gather(pool, _index(places, [_halves(factors)[0] for factors in squares]))
            new.append(builder.activation(Square(), roots))
        if others:
            left, right = (_index(places, half) for half in zip(*map(_halves, others), strict=True))
            new.append(builder.product(builder.gather(pool, left), builder.gather(pool, right)))
        places |= {factors: pool.size + k for k, factors in enumerate([*squares, *others])}
        pool = side_by_side(builder, [pool, *new])
    wanted = [*range(inputs.size, inputs.size + outputs.size), *(places[factors] for factors in products)]
    return builder.gather(pool, torch.tensor(wanted))


def _halves(factors: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A product's factors in two; an even power's halves are equal."""
    if len(factors) % 2 == 0 and factors[0::2] == factors[1::2]:
        return factors[0::2], factors[1::2]
    middle = (len(factors) + 1) // 2
    return factors[:middle], factors[middle:]


def _add_halves(needed: set[tuple[int, ...]], factors: tuple[int, ...]) -> None:
    for half in _halves(factors) if len(factors) > 1 else ():
        if half not in needed:
            needed.add(half)
            _add_halves(needed, half)


def _index(places: Mapping[tuple[int, ...], int], keys: Sequence[tuple[int, ...]]) -> torch.Tensor:
    return torch.tensor([places[key] for key in keys])


def side_by_side(builder: Builder, values: Sequence[Value]) -> Value:
    """Some values as one vector; a single one as it is."""
    if len(values) == 1:
        return values[0]
    return builder.concatenate([builder.reshape(value, (value.size,)) for value in values], 0)
