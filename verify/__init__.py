"""verify: decides properties of neural networks by Lagrangian decomposition and branch and bound.

    import verify
    result = verify.verify("model.onnx", "property.vnnlib", timeout=60)

Everything heavy is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "certify": "verify.study.certify", "report": "verify.reports.report", "bundle": "verify.reports.bundle", "output_range": "verify.study.ranges", "Ranges": "verify.study.ranges", "reach": "verify.study.reach", "Tube": "verify.study.reach",
    "radius": "verify.study.radius", "Radius": "verify.study.radius", "Study": "verify.study.study", "Accuracy": "verify.study.study",
    "verify": "verify.api", "bounds": "verify.api", "Result": "verify.result", "ClauseBounds": "verify.clause_bounds",
    "load": "verify.loading", "LoadedModel": "verify.loading", "Problem": "verify.problem", "Witness": "verify.problem",
    **dict.fromkeys((
        "Always", "BiasField", "Brightness", "Fair", "L1Ball", "L2Ball", "LinfBall", "Lipschitz", "Monotone", "Never", "OutputRange", "Patch",
        "PropertyBuilder", "Row", "Specification", "x", "y",
    ), "verify.specification"),
    "VerifyError": "verify.errors", "InputError": "verify.errors", "ResourceError": "verify.errors",
    "DialectWarning": "verify.errors", "ModeWarning": "verify.errors", "VacuousWarning": "verify.errors",
}  # fmt: skip

if TYPE_CHECKING:
    from verify.api import bounds, verify
    from verify.clause_bounds import ClauseBounds
    from verify.errors import (
        DialectWarning,
        InputError,
        ModeWarning,
        ResourceError,
        VacuousWarning,
        VerifyError,
    )
    from verify.loading import LoadedModel, load
    from verify.problem import Problem, Witness
    from verify.reports.bundle import bundle
    from verify.reports.report import report
    from verify.result import Result
    from verify.specification import (
        Always,
        BiasField,
        Brightness,
        Fair,
        L1Ball,
        L2Ball,
        LinfBall,
        Lipschitz,
        Monotone,
        Never,
        OutputRange,
        Patch,
        PropertyBuilder,
        Row,
        Specification,
        x,
        y,
    )
    from verify.study.certify import certify
    from verify.study.radius import Radius, radius
    from verify.study.ranges import Ranges, output_range
    from verify.study.reach import Tube, reach
    from verify.study.study import Accuracy, Study

__all__ = [
    "Accuracy", "Always", "BiasField", "Brightness", "ClauseBounds", "DialectWarning", "Fair", "InputError", "L1Ball", "L2Ball", "LinfBall", "Lipschitz",
    "LoadedModel", "ModeWarning", "Monotone", "Never", "OutputRange", "Patch", "Problem", "PropertyBuilder", "Radius", "Ranges", "ResourceError", "Result", "Row",
    "Specification", "Study", "Tube", "VacuousWarning", "VerifyError", "Witness", "bounds", "bundle", "certify", "load", "output_range", "radius", "reach", "report", "verify", "x", "y",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'verify' has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value
