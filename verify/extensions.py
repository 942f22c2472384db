"""What installed packages add to `verify` by name: operators, bounders, branching rules and techniques (docs/extensions.md).

A package says in its metadata what it has: an entry point in the group of the kind, whose name is the name that users and models say. The metadata
are looked at where a name is asked for that `verify` does not know itself, and nothing is imported but what has that name: a built-in is never
replaced, and who names nothing pays nothing. What was loaded is remembered, for results say whose code took part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from verify.deadline import OutOfTimeError
from verify.errors import InputError, first_line, is_out_of_memory

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

F = TypeVar("F", bound=Callable[..., Any])

# the group of entry points of each kind, and what an object of it has
GROUPS = {
    "operator": "verify.operators",
    "bounder": "verify.bounders",
    "branching rule": "verify.branching_rules",
    "technique": "verify.techniques",
}
_NEEDED = {
    "bounder": ("ascend",),
    "branching rule": ("choose",),
    "technique": ("name", "once", "due", "apply"),
}


@dataclass(frozen=True, order=True)
class Extension:
    """Code of another package that was loaded."""

    kind: str
    name: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of {self.package} {self.version}"


_registered: dict[tuple[str, str], Callable[[], Any]] = {}
_loaded: dict[Extension, Callable[[], Any]] = {}


def register(kind: str, name: str) -> Callable[[F], F]:
    """Gives what makes a bounder, branching rule or technique (a class, or a function of no arguments) a name in this process.

    Raises ValueError for a name that is taken, and for another kind.
    """
    if kind not in _NEEDED:
        raise ValueError(f"{kind!r} is none of {', '.join(_NEEDED)}")

    def entered(maker: F) -> F:
        if (kind, name) in _registered:
            raise ValueError(f"the {kind} {name!r} is registered twice")
        _registered[kind, name] = maker
        return maker

    return entered


def names(kind: str) -> tuple[str, ...]:
    """The names of a kind that are registered or installed, in order; nothing is loaded."""
    own = {name for known, name in _registered if known == kind}
    return tuple(sorted(own | {entry.name for entry in _installed(GROUPS[kind])}))


def made(kind: str, name: str) -> Any:
    """A bounder, branching rule or technique by its name. Raises InputError where there is none, and where its package is broken."""
    maker = _registered.get((kind, name))
    if maker is not None:
        return maker()
    extension, maker = _found(kind, name)
    with _blamed(extension):
        one = maker()
    missing = [part for part in _NEEDED[kind] if not hasattr(one, part)]
    if missing:
        raise _broken(extension, f"what it makes has no {' and no '.join(missing)}, so it is no {kind}")
    return one


def load_operator(name: str) -> Extension | None:
    """Has the package that declares an operator register its rule; None where no package does. Raises InputError where it is broken."""
    if name not in names("operator"):
        return None
    return _found("operator", name)[0]


def load_operators() -> None:
    """Has all packages that declare operators register their rules: what torch calls has no name that could be looked up."""
    for name in names("operator"):
        _found("operator", name)


def loaded() -> tuple[Extension, ...]:
    """All that this process has loaded of other packages, in order."""
    return tuple(sorted(_loaded))


def _found(kind: str, name: str) -> tuple[Extension, Callable[[], Any]]:
    """An extension and what makes its object, loaded once."""
    entries = [entry for entry in _installed(GROUPS[kind]) if entry.name == name]
    if not entries:
        there = ", ".join(names(kind)) or "none"
        raise InputError(f"no {kind} {name!r} is installed; there are {there}")
    packages = sorted({_package(entry) for entry in entries})
    if len(packages) > 1:
        both = " and ".join(package for package, _ in packages)
        raise InputError(
            f"the {kind} {name!r} is declared by several packages, {both}; uninstall all but one of them"
        )
    extension = Extension(kind, name, *packages[0])
    if extension not in _loaded:
        with _blamed(extension):
            maker = entries[0].load()
        _loaded[extension] = maker
    return extension, _loaded[extension]


@cache
def _installed(group: str) -> Sequence[EntryPoint]:
    """The entry points of a group, as the metadata of what is installed say."""
    from importlib.metadata import entry_points  # which takes 30 ms

    return tuple(entry_points(group=group))


def _package(entry: EntryPoint) -> tuple[str, str]:
    """The name and version of what declares an entry point."""
    return (entry.dist.name, entry.dist.version) if entry.dist is not None else ("an unknown package", "")


@contextmanager
def _blamed(extension: Extension) -> Iterator[None]:
    """Within it, whatever goes wrong is told of the extension."""
    try:
        yield
    except OutOfTimeError:
        raise
    except (Exception, SystemExit) as error:
        ends = isinstance(error, SystemExit) and type(error) is not SystemExit  # by a signal
        if ends or is_out_of_memory(error):
            raise
        raise _broken(
            extension, f"it cannot be loaded ({type(error).__name__}: {first_line(error)})"
        ) from error


def _broken(extension: Extension, why: str) -> InputError:
    return InputError(
        f"package {extension.package} {extension.version} is broken: {extension.kind} {extension.name!r}: {why}; repair or uninstall it"
    )
