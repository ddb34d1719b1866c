"""``python -m bench.performance``: measure, and write tables and figure with machine, date, commit and versions."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from bench import environment
from bench.performance import adaptive, likelihood, memory, overhead
from bench.tables import markdown_table

OUT = Path("results/reference/performance")


def _provenance() -> str:
    where = environment.environment(torch.device("cpu"))
    versions = where.versions | {"diffusers": version("diffusers")}
    return (
        f"{where.date}, {where.cpu}, {where.cores} cores, one thread, load average {where.load_average:.1f}; "
        f"commit {where.commit}{' with changes' if where.dirty else ''}; "
        + ", ".join(f"{name} {text}" for name, text in versions.items())
        + ".\n"
    )


def _markdown(table: pd.DataFrame) -> str:
    return markdown_table(map(str, table.columns), table.itertuples(index=False)) + "\n"


def _write(folder: Path, name: str, title: str, text: str, table: pd.DataFrame, shown: pd.DataFrame) -> None:
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    path = folder / f"{name}.md"
    path.write_text(f"# {title}\n\n{_provenance()}\n{text}\n\n{_markdown(shown)}", encoding="utf-8")
    print(path)


def _overhead(folder: Path) -> None:
    rounds = overhead.measure()
    table = overhead.summarise(rounds)
    text = (
        f"Microseconds per evaluation beside the network (bare: {rounds.bare_network.median():.2f}), median of "
        f"{overhead.ROUNDS} interleaved rounds, quartiles in brackets. The first solve on a grid computes coefficients,"
        " a repeated one finds them kept; diffusers computes its own in every solve, and `times` holds that against "
        "either. `BrownianPath`: the noise alone, which takes the place of recorded normals. diffusers draws its own "
        f"noise. `hand-written`: a bare loop, coefficients given.\n\n{_markdown(overhead.targets(table))}"
    )
    _write(folder, "overhead", "Overhead per evaluation", text, table, overhead.side_by_side(table))


def _adaptive(folder: Path) -> None:
    points = pd.concat([adaptive.measure(name) for name in adaptive.SAMPLES], ignore_index=True)
    costs = adaptive.costs(points)
    costs["text"] = [
        None if pd.isna(row.evaluations) else f"{row.evaluations:.1f} ({row.ratio:.2f}), {row.seconds:.2g} s"
        for row in overhead.lines_of(costs)
    ]
    shown = costs.pivot_table(
        index=["problem", "solver"], columns="error", values="text", aggfunc="first", sort=False
    ).reset_index()
    sizes = ", ".join(f"{name} {n}" for name, n in adaptive.SAMPLES.items())
    text = (
        "Evaluations a sample to an error (over the better of torchdiffeq dopri5 and scipy RK45, both whole-batch), "
        f"and seconds for the batch ({sizes}); – where the sweep did not reach it. Points: adaptive.csv."
        f"\n\n{_markdown(adaptive.targets(costs))}\n"
        "![error against evaluations](adaptive.png)"
    )
    _write(folder, "adaptive", "Adaptive solvers", text, points, shown)
    adaptive.write_figure(points, folder / "adaptive")


def _memory(folder: Path) -> None:
    table = memory.measure()
    text = f"Peak bytes of tensors in a solve of {memory.SAMPLES} two-dimensional samples."
    _write(folder, "memory", "Memory", text, table, table)


def _likelihood(folder: Path) -> None:
    names = likelihood.trained()
    table = pd.concat([likelihood.measure(name) for name in names], ignore_index=True)
    peaks = pd.concat([likelihood.memory(name) for name in names], ignore_index=True)
    sizes = ", ".join(f"{name} {likelihood.CHECKPOINTS[name][1]}" for name in names)
    text = (
        f"Bits/dim of images ({sizes}) with one probe each; error: mean |difference| from a solve in double precision "
        f"at 1e-8; median seconds of {likelihood.REPEATS} interleaved repeats, and over the reference procedure at "
        f"1e-5.\n\n{_markdown(likelihood.targets(table).map(_short))}\nPeak bytes of tensors in a solve of "
        f"`dpmpp_3m`:\n\n{_markdown(peaks)}"
    )
    _write(folder, "likelihood", "Likelihood", text, table, table.map(_short))


def _short(value: object) -> object:
    return f"{value:.3g}" if isinstance(value, float) else value


PARTS = {"overhead": _overhead, "adaptive": _adaptive, "memory": _memory, "likelihood": _likelihood}


def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help="overhead, adaptive, memory, likelihood; all by default")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the results")] = OUT,
) -> None:
    """Measure overhead, adaptive solvers, memory and likelihood."""
    unknown = set(parts or ()) - set(PARTS)
    if unknown:
        raise typer.BadParameter(f"parts are {', '.join(PARTS)}; got {', '.join(sorted(unknown))}")
    out.mkdir(parents=True, exist_ok=True)
    for name in parts or PARTS:
        PARTS[name](out)


if __name__ == "__main__":
    typer.run(main)
