"""The command line: ``scorebench``, or ``python -m bench``."""

import sys
from typing import Annotated

import typer

from bench.commands import models, runs, solvers
from bench.console import err, out
from solvers.errors import UsageError

app = typer.Typer(
    help="Benchmarks of numerical solvers for score-based generative models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    *(runs.run, runs.report, runs.compare, runs.list_),
    *(models.train, models.evaluate, models.statistics, models.likelihood, models.encode),
    *(solvers.check, solvers.conformance, solvers.audit, solvers.new_solver),
)
for command in COMMANDS:
    app.command(name=command.__name__.strip("_").replace("_", "-"))(command)


@app.command()
def docs(
    check: Annotated[bool, typer.Option("--check", help="write nothing; exit code 1 if something is stale")] = False,
) -> None:
    """Render the documents' tables from the registries and the committed records."""
    from bench.docs import update_pages

    stale = update_pages(check)
    if not stale:
        out.print("Every page is up to date.")
    elif check:
        err.print(f"Stale: {', '.join(stale)}. Run scorebench docs.")
        raise typer.Exit(1)
    else:
        out.print(f"Rendered anew: {', '.join(stale)}")


def main() -> None:
    """Entry point: a mistake of the user's ends with one message and exit code 2."""
    try:
        app()
    except UsageError as error:
        err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
