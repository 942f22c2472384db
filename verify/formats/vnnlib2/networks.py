"""Declarations of VNN-LIB 2.0: networks, how they relate to one another, and their variables."""

from __future__ import annotations

import math
import re

from verify.formats.vnnlib.reader import Reader
from verify.formats.vnnlib2.declarations import (
    ELEMENT_TYPES,
    EQUAL,
    HIDDEN,
    INITIALIZED,
    INPUT,
    ISOMORPHIC,
    OUTPUT,
    REAL,
    Declaration,
    Variable,
    disagreement,
)

MAXIMUM_SIZE = 10**8
_STRING = re.compile(r'"((?:[^"\\\n\r]|\\.)*)"')
INDICES = re.compile(r"\[([^\[\]()]*)\]")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
# the standard's own example is called f-copy
_NETWORK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)
_INITIALIZED = re.compile(r"initialized(?=[\s()])", re.ASCII)
_TYPES = {"Real": REAL}
_KINDS = {"declare-input": INPUT, "declare-hidden": HIDDEN, "declare-output": OUTPUT}
_ARE_NUMBERS = re.compile(r"\s*(?:\d{1,10}\s*(?:,\s*\d{1,10}\s*)*)?\Z", re.ASCII).match


class NetworkReader(Reader):
    """Reads the declarations of a query's networks."""

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text, source)
        self.networks: list[Declaration] = []
        # the networks by name, and all variables by name
        self._known: dict[str, Declaration] = {}
        self._taken: dict[str, Variable] = {}

    def _network(self, opened: int) -> None:
        place = self._skip()
        name = self._token(_NETWORK_NAME, "the network's name")
        if name in self._known:
            self._fail(place, f"the network {name} is declared twice", "give every network its own name")
        relation, target, where = "", "", place
        variables: dict[str, list[Variable]] = {kind: [] for kind in (INPUT, HIDDEN, OUTPUT, INITIALIZED)}
        while self._more(opened):
            inner = self.at
            at, head = self._head(inner, "a declaration")
            if head in _KINDS:
                self._ordered(at, _KINDS[head], variables)
                variable = self._variable(inner, _KINDS[head])
                variables[variable.kind].append(variable)
            elif head in (EQUAL, ISOMORPHIC):
                if relation or any(variables.values()):
                    reason = f"{head} stands where no relation may"
                    self._fail(at, reason, "relate a network once at most, before its variables")
                where, relation = self._skip(), head
                target = self._token(_NETWORK_NAME, "a network's name")
                self._close(inner, "the network's name")
            else:
                self._fail(
                    at,
                    f"unknown declaration {head[:60]!r}",
                    f"use {', '.join(_KINDS)}, {EQUAL} or {ISOMORPHIC}",
                )
        for kind, found in ((INPUT, variables[INPUT] + variables[INITIALIZED]), (OUTPUT, variables[OUTPUT])):
            if not found:
                self._fail(place, f"the network {name} has no {kind}", f"add (declare-{kind} ...)")
        parts = (tuple(variables[kind]) for kind in (INPUT, HIDDEN, OUTPUT, INITIALIZED))
        self._add_network(Declaration(name, relation, target, *parts), where)

    def _ordered(self, place: int, kind: str, variables: dict[str, list[Variable]]) -> None:
        late = {INPUT: (HIDDEN, OUTPUT), HIDDEN: (OUTPUT,), OUTPUT: ()}[kind]
        if any(variables[other] for other in late):
            self._fail(
                place, f"declare-{kind} comes too late", "declare inputs, then hidden nodes, then outputs"
            )
        if kind == HIDDEN and not (variables[INPUT] or variables[INITIALIZED]):
            self._fail(
                place,
                "a hidden node comes before the inputs",
                "declare inputs, then hidden nodes, then outputs",
            )

    def _add_network(self, network: Declaration, place: int) -> None:
        """Add a network whose relation to another one holds by their declarations."""
        if network.relation:
            other = self._known.get(network.target)
            if other is None:
                self._fail(place, f"the network {network.target} is not declared before", "declare it first")
            if other.relation:
                reason = f"{network.target} is itself {other.relation} {other.target}"
                self._fail(place, reason, f"name {other.target} here")
            reason = disagreement(network, other) or ""
            if reason:
                self._fail(
                    place,
                    f"{network.name} is not {network.relation} {network.target}: {reason}",
                    "declare them alike",
                )
        self.networks.append(network)
        self._known[network.name] = network

    def _variable(self, opened: int, kind: str) -> Variable:
        """Read the rest of a declaration: name, element type, shape, and the tensor of a hidden one."""
        place = self._skip()
        name = self._token(NAME, "a variable's name")
        if name in self._taken:
            self._fail(place, f"{name} is declared twice", "give every variable of the query its own name")
        where = self._skip()
        given = self._token(NAME, "an element type")
        element_type = _TYPES.get(given, given)
        if element_type not in ELEMENT_TYPES:
            self._fail(where, f"unknown element type {given[:60]!r} of {name}", "use one of ONNX's, or real")
        first = next(iter(self._taken.values()), None)
        if first is not None and (element_type == REAL) != (first.element_type == REAL):
            reason = f"{name} is {element_type} and {first.name} {first.element_type}"
            self._fail(where, reason, "declare all variables as real, or none")
        shape = self._shape(name)
        tensor = self._tensor() if kind == HIDDEN else ""
        if kind == INPUT and self._initialized(name):
            kind = INITIALIZED
        self._close(opened, f"the declaration of {name}")
        self._taken[name] = Variable(name, kind, element_type, shape, tensor, place)
        return self._taken[name]

    def _shape(self, name: str) -> tuple[int, ...]:
        place = self._skip()
        match = INDICES.match(self.text, place)
        shape = numbers(match)
        if match is None or shape is None or 0 in shape or math.prod(shape) > MAXIMUM_SIZE:
            reason = f"found {self._found()}, expected the shape of {name}"
            self._fail(place, reason, f"write it as [1,3], with 1 to {MAXIMUM_SIZE} elements in all")
        self.at = match.end()
        return tuple(shape)

    def _initialized(self, name: str) -> bool:
        """Whether the input at hand is declared initialized."""
        place = self._skip()
        match = _INITIALIZED.match(self.text, place)
        if match is None:
            return False
        self.at = match.end()
        self._note(
            place, f"the initialized input {name} is taken to have the value that the model's file gives it"
        )
        return True

    def _tensor(self) -> str:
        place = self._skip()
        match = _STRING.match(self.text, place)
        if match is None or not match.group(1):
            self._fail(place, f"found {self._found()}, expected an ONNX name", 'write it as "name"')
        self.at = match.end()
        return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m.group(1), m.group(1)), match.group(1))

    def _skip(self) -> int:
        self._peek()
        return self.at

    def _token(self, pattern: re.Pattern[str], wanted: str) -> str:
        match = pattern.match(self.text, self._skip())
        if match is None:
            self._fail(self.at, f"found {self._found()}, expected {wanted}", f"write {wanted}")
        self.at = match.end()
        return match.group()


def numbers(match: re.Match[str] | None) -> list[int] | None:
    """The numbers between brackets, or None where there is something else."""
    if match is None or not _ARE_NUMBERS(match.group(1)):
        return None
    return [int(word) for word in match.group(1).split(",") if word.strip()]
