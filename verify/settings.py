"""Presets and the one place where objects are built from them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

import numpy as np
import torch

from verify.attack import Attack
from verify.bab.activations import SplitActivations
from verify.bab.excluded import without_excluded
from verify.bab.frontier import Frontier
from verify.bab.inputs import SplitInputs
from verify.bab.loop import BranchAndBound
from verify.bab.neuron_trees import places_behind
from verify.bab.pace import Pace
from verify.bab.progress import Reporter, Silent
from verify.bab.root_bounds import RootBounds
from verify.bab.strategy import Bounded, Strategy, Technique
from verify.bab.techniques.branched_bounds import BranchedBounds
from verify.bab.techniques.cutting_planes import CuttingPlanes
from verify.bab.techniques.linear_programs import LinearPrograms
from verify.bab.techniques.other_splitting import OtherSplitting
from verify.bab.techniques.roots import Roots, Stage
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.optimised_output_constrained import OptimisedOutputConstrained
from verify.bounders.output_constrained import OutputConstrained
from verify.bounders.restricted import Restricted
from verify.bounders.tracing import Provable
from verify.branching.fsb import FilteredSmartBranching
from verify.branching.rule import BranchingRule
from verify.errors import InputError, first_line
from verify.extensions import made, names
from verify.lagrangian.dual import storage
from verify.memory import budget, enforce
from verify.network.activations.relu import Relu
from verify.network.graph import Network
from verify.network.opposites import without_opposites
from verify.network.rounding_model import check
from verify.problem import Problem
from verify.proof.certificate import CertificateTracer
from verify.proof.tracer import NO_PROOF, ProofTracer
from verify.proof.writer import CertificateWriter
from verify.request import PRESETS, known_device
from verify.room import at_once
from verify.step_attack import for_steps
from verify.validation import refuse

# asks cuBLAS for doubles that are made of shorter formats
_EMULATION = "CUBLAS_EMULATE_DOUBLE_PRECISION"
# times the iterations of a child, for ascents under new cuts
_LONGER = 4
# variables in one batch: a subproblem takes some 100 bytes of each while it is bounded
_MOST_ELEMENTS = 2**25
_MOST_ON_A_GPU = 2**14  # subproblems in one batch


@dataclass(frozen=True)
class Settings:
    """How much effort goes where. The defaults are the preset `default`."""

    first_attack: Attack = Attack(restarts=4, steps=20, seconds=1.0)
    second_attack: Attack = Attack(restarts=32, steps=60, seconds=2.0, rounds=10)
    intermediate: IntermediateBounds = IntermediateBounds()
    optimised: IntermediateBounds = IntermediateBounds(Restricted(iterations=5))
    root: Restricted = Restricted(iterations=40)
    child: Restricted = Restricted(iterations=5, step=0.1, decay=0.8)
    brancher: BranchingRule = FilteredSmartBranching(candidates=2)
    # of the time left, for plain and for optimised intermediate bounds
    intermediate_share: float = 0.4
    optimised_share: float = 0.15
    output_constrained: tuple[OutputConstrained, ...] = (OutputConstrained(), OptimisedOutputConstrained())
    branched: BranchedBounds | None = BranchedBounds()
    # of one's own, for every batch of subproblems where activations are split
    further: tuple[Technique[Bounded], ...] = ()
    splittable_inputs: int = 16  # at most so many free inputs: split inputs, else activations
    triable_inputs: int = 64  # at most so many: where activations lead nowhere soon, inputs are tried
    batch_elements: int = 800_000  # variables in one batch of subproblems
    semantics: str = "real"  # of what is decided: see verify.request
    rigorous: bool = True  # False, for timing alone: float32's word is taken for a refutation


_FAST = Settings(
    second_attack=Attack(8, 20, 1.0, 4),
    root=Restricted(iterations=20),
    child=Restricted(iterations=3, step=0.1, decay=0.7),
)
_THOROUGH = Settings(
    second_attack=Attack(64, 100, 5.0, 20),
    root=Restricted(iterations=100),
    child=Restricted(iterations=20, step=0.1, decay=0.9),
    brancher=FilteredSmartBranching(candidates=6),
)
_PRESETS = dict(zip(PRESETS, (_FAST, Settings(), _THOROUGH), strict=True))


def choose_device(name: str | torch.device) -> torch.device:
    """`auto` takes the GPU where there is one that works. Raises InputError for what there is none of, and for one that does not work."""
    text = known_device(str(name) if isinstance(name, torch.device) else name)
    if text.startswith("cpu"):
        return torch.device("cpu")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "auto" and not there:
        return torch.device("cpu")
    number = text.partition(":")[2]
    if int(number or 0) >= there:
        refuse("--device", f"{text}: torch sees {there or 'no'} CUDA devices", "use --device cpu or auto")
    # by its number: in a new thread torch's current device is another one
    device = torch.device("cuda", int(number or torch.cuda.current_device()))
    trouble = _trouble(device)
    if trouble and text == "auto":
        return torch.device("cpu")
    if trouble:
        refuse("--device", f"{text}: {trouble}", "use --device cpu")
    return device


def _trouble(device: torch.device) -> str:
    """Why a GPU cannot be used, if it cannot."""
    if os.environ.get(_EMULATION, "0") not in ("", "0"):
        return f"{_EMULATION} is set, with which no rounding error is known"
    try:
        torch.ones(2, device=device, dtype=torch.float64).sum().item()
    except RuntimeError as error:
        return first_line(error)
    return ""


def placed(network: Network, device: str | torch.device) -> Network:
    """The network on a device, in float64. Raises InputError for what there is none of, or where products there are not what is proved by."""
    found = network.to(choose_device(device), torch.float64)
    check(found)
    return found


def keep_memory(size: int | None, device: str) -> None:
    """Has the system keep a command to its budget; with a GPU only if one is given: its driver reserves memory that it does not use."""
    if size is not None or choose_device(device).type == "cpu":
        enforce()


def preset(name: str) -> Settings:
    """The settings of that name, one of `PRESETS`, with what is named behind a +. Raises InputError for a package that is broken."""
    base, *more = name.split("+")
    settings = _PRESETS[base]
    for one in more:
        if one in names("branching rule"):
            settings = replace(settings, brancher=made("branching rule", one))
        else:
            settings = replace(settings, further=(*settings.further, made("technique", one)))
    return settings


def _deployed(problem: Problem, network: Network, semantics: str) -> Network:
    """The network with what float32 libraries may round; InputError where that is not known."""
    curved = {layer.activation.name for layer in network.layers if not isinstance(layer.activation, Relu)}
    if curved or problem.model.element_type != "float32":
        what = (
            f"how libraries compute {', '.join(sorted(curved))}" if curved else "a model that is not float32"
        )
        raise InputError(f"--semantics {semantics}: covers float32 networks of ReLUs, not {what}; use real")
    return replace(network, deployed=True)


def build_search(
    problem: Problem,
    settings: Settings,
    device: torch.device,
    seed: int,
    reporter: Reporter,
    writer: CertificateWriter | None = None,
    workers: int | None = None,
) -> BranchAndBound:
    """The search for one problem; with a `writer` it tells what a certificate needs. workers: as many as torch has threads by default."""
    network = placed(problem.model.network, device)
    if settings.semantics != "real":
        network = _deployed(problem, network, settings.semantics)
    if not network.deployed:
        network = without_opposites(network, None if writer is None else writer.agreement)
    tracer = NO_PROOF if writer is None else CertificateTracer(network, problem.rows, writer)
    network = replace(network, plain=not tracer.proves(Provable.SHARED_FACTS))
    if tracer.proves(Provable.EXCLUDED_CLAUSES):
        problem = without_excluded(problem, network)
    few = problem.free_inputs <= settings.splittable_inputs
    split = network  # inputs are split on what clauses say alone
    if problem.ball is not None and tracer.proves(Provable.BALL):
        network = replace(network, ball=problem.ball.to(device, torch.float64))
    rivals = writer is None or writer.has_rivals
    either = not few and rivals and problem.free_inputs <= settings.triable_inputs
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    workers = workers or threads
    # those of a cluster have memory of their own
    here = min(workers, max(threads, os.cpu_count() or 1))
    batch, first_batch = _sizes(settings, network, here)
    own_type = torch.float64 if problem.model.element_type == "float64" else torch.float32
    own_network = network.to(device, own_type)

    first, second = (for_steps(attack, network) for attack in (settings.first_attack, settings.second_attack))

    def search(
        strategy: Strategy,
        tracer: ProofTracer,
        told: Reporter,
        workers: int,
        other: OtherSplitting | None = None,
    ) -> BranchAndBound:
        frontier = Frontier(budget().store, storage(network))
        attacks, generator = (first, second), np.random.default_rng(seed)
        found = BranchAndBound(
            problem, own_network, strategy, *attacks, told, generator, batch, workers, tracer, frontier, other
        )
        found.pace = Pace(first_batch)
        return found

    other = None
    if few or either:
        own = tracer
        if either and writer is not None:
            own = CertificateTracer(split, problem.rows, writer.rival())
        inputs = SplitInputs.of(problem, split, settings.intermediate, own)
        if few:
            return search(inputs, own, reporter, workers)
        other = OtherSplitting(search(inputs, own, Silent(), threads))
    return search(_activations(problem, network, settings, tracer), tracer, reporter, workers, other)


def _sizes(settings: Settings, network: Network, workers: int) -> tuple[int, float]:
    """How many subproblems a batch has at most; and at first: on a GPU as many as on a CPU, more where that is measured to be faster."""
    device, variables = network.device, network.variables
    several = max(1, min(16, at_once(_MOST_ELEMENTS, device, workers) // variables))
    few = max(several, min(2048, budget().at_once(settings.batch_elements, workers) // variables))
    if device.type == "cpu":
        return few, math.inf
    return max(few, min(_MOST_ON_A_GPU, at_once(settings.batch_elements, device) // variables)), few


def _activations(
    problem: Problem, network: Network, settings: Settings, tracer: ProofTracer
) -> SplitActivations:
    """The strategy of splitting activations, with what suits the network and a proof can hold."""
    methods = tuple(method for method in settings.output_constrained if tracer.proves(method.technique))
    start = RootBounds.begin(problem, network, torch.float32, len(methods), tracer, settings.rigorous)
    optimised = settings.optimised
    if not tracer.proves(Provable.OPTIMISED_INTERMEDIATE):
        optimised = settings.intermediate
    stages = (
        Stage("intermediate bounds", settings.intermediate, settings.intermediate_share),
        Stage("optimised intermediate bounds", optimised, settings.optimised_share),
    )
    branched = settings.branched
    # slopes gain next to nothing before mixing activations
    if start.mixes or not tracer.proves(Provable.BRANCHED_BOUNDS) or not places_behind(network):
        branched = None
    if branched is not None:
        start = replace(start, passes=branched.begin())
    programs = LinearPrograms()
    if branched is not None or programs.possible(start):
        tracer.expect_renewals()
    return SplitActivations(
        start,
        Roots(stages[:1] if start.mixes else stages, settings.root, settings.child),
        settings.child,
        settings.brancher,
        CuttingPlanes(settings.child.longer(_LONGER)),
        methods,
        branched,
        programs,
        settings.further,
    )
