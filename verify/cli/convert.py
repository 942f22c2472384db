"""`verify convert`: an .nnet file as the ONNX file that it is decided as."""

from __future__ import annotations

from pathlib import Path

import click

from verify.cli import options
from verify.errors import DECIDED, InputError
from verify.output import write_whole
from verify.startup import import_torch
from verify.validation import is_nnet


@click.command(
    short_help="Write an .nnet file as an ONNX file.",
    epilog=options.codes(
        "verify convert ACASXU_1_1.nnet acasxu_1_1.onnx",
        code0="written",
        code1="",
        code3="it cannot be written",
    ),
)
@click.argument("network", metavar="NNET", type=options.FILE)
@click.argument("target", metavar="ONNX", type=options.FILE)
@click.option(
    "--normalised",
    is_flag=True,
    help="The layers alone: inputs are normalised before them, outputs not scaled back.",
)
def convert(network: Path, target: Path, normalised: bool) -> int:
    """Write NNET, a network in Stanford's .nnet format, as an ONNX file, of which there are certificates."""
    import_torch()
    from verify.loading.guard import reading
    from verify.loading.onnx.model import nnet

    if not is_nnet(network):
        raise InputError(f"{network}: its name does not end in .nnet; give a file in Stanford's .nnet format")
    with reading(str(network)):
        model = nnet(network).model(normalised)
    options.admitted([network], {"ONNX": target})
    write_whole(str(target), target, model.SerializeToString())
    return DECIDED
