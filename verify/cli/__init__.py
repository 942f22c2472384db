"""The command line. Verdicts and data go to stdout, everything else to stderr; heavy imports wait for the commands.

A command is a file here: it checks what it is given, has the library do it, and shows what came out.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from typing import NoReturn

import click

from verify.cli import bounds, bundle, certificate, certify, check, convert, info, run, standard, suite
from verify.cli.options import codes
from verify.errors import BAD_INPUT, DECIDED, INTERNAL, RESOURCES, VerifyError, is_out_of_memory
from verify.extensions import loaded
from verify.output import clean_up
from verify.process import Signalled, careful_streams, ending_code, unwound_by_signals
from verify.watchdog import end

_STARTED = time.monotonic()


_HELP = (
    codes(
        "verify run model.onnx property.vnnlib --certificate proof.cert",
        "verify check proof.cert model.onnx property.vnnlib",
        "verify certify model.onnx test.npz --eps 0.01,0.02",
        "verify run --help",
    )
    + """
\b
Completion, for bash (zsh and fish likewise):
  eval "$(_VERIFY_COMPLETE=bash_source verify)"
"""
)


@click.group(epilog=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Decides whether a neural network (ONNX) has a property (VNN-LIB): unsat - it holds; sat - here is a counterexample."""


_OURS = (
    run.run,
    check.check,
    bounds.bounds,
    info.info,
    certificate.group,
    suite.suite,
    certify.certify,
    certify.radius,
    bundle.bundle,
    convert.convert,
)
for _command in (*_OURS, standard.verify, standard.supports):
    # click keeps a command's help option as it was first asked for, in whatever context
    _command.context_settings = cli.context_settings
    cli.add_command(_command)
standard.add_global_options(cli)


def main() -> NoReturn:
    """Runs the command line and exits with the documented code; a verdict never follows an error."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's products are small: processes share the work
    with careful_streams():
        code = _run()
    end(code)


def _run() -> int:
    try:
        with unwound_by_signals():
            return cli(standalone_mode=False, obj=_STARTED) or DECIDED
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _failed(ending_code(signal.SIGINT), "interrupted")
    except Signalled as stop:
        return _failed(ending_code(stop.number), f"ended by {stop.name}")
    except VerifyError as error:
        return _failed(error.exit_code, str(error))
    except Exception as error:
        return _failed_unforeseen(error)
    finally:
        clean_up()


def _failed(code: int, message: str) -> int:
    click.echo(f"verify: {message}", err=True)
    return code


def _failed_unforeseen(error: Exception) -> int:
    if is_out_of_memory(error):
        return _failed(
            RESOURCES, "out of memory; try a smaller model, another machine, --preset fast or --device cpu"
        )
    traceback.print_exc()
    return _failed(
        INTERNAL,
        "internal error, no verdict; please report the text above with the model and the property"
        + "".join(f"; {extension} was loaded: try without it first" for extension in loaded()),
    )
