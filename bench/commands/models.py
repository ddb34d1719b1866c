"""Score models: training, evaluation, statistics of their data, likelihoods and encodings."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from bench.console import DeviceOption, PluginOption, load_plugins, out, told_when_interrupted


def train(
    card: Annotated[str, typer.Argument(help="name of a shipped card, or path of a YAML file")],
    out_folder: Annotated[Path, typer.Option("--out", help="folder for weights and card")] = Path("results/training"),
    device: DeviceOption = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="go on with a run that was stopped or killed")] = False,
    minutes: Annotated[float | None, typer.Option(min=0, help="stop after so many, to be resumed")] = None,
    checkpoint_minutes: Annotated[float, typer.Option(min=0, help="minutes between checkpoints")] = 10,
    logs: Annotated[bool, typer.Option(help="write TensorBoard's event files below OUT/logs")] = True,
) -> None:
    """Train a checkpoint from its card, in one stretch or in several (--minutes, --resume)."""
    from bench.environment import resolve_device
    from pretrained.card import load_card
    from pretrained.train import train as train_card
    from pretrained.training.processes import is_first

    chosen = load_card(card)
    where = resolve_device(device)
    with told_when_interrupted("Interrupted: the same command with --resume goes on from the last checkpoint."):
        finished = train_card(
            chosen,
            out_folder,
            where,
            resume=resume,
            minutes=minutes,
            checkpoint_minutes=checkpoint_minutes,
            logs=logs,
        )
    if not is_first():
        return
    if finished.result is None:
        out.print("Stopped before the last step: the same command with --resume goes on.")
        return
    out.print(f"Weights and card: {out_folder / chosen.name}.safetensors, .yaml", soft_wrap=True)


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="name of a score model, see `list checkpoints`")],
    folder: Annotated[Path | None, typer.Option(help="of a checkpoint trained here")] = None,
    n: Annotated[int | None, typer.Option(min=2, help="samples [as many as the reference has]")] = None,
    images: Annotated[int | None, typer.Option(min=2, help="held-out images for bits/dim [all, at most 1000]")] = None,
    draws: Annotated[int, typer.Option(min=1, help="dequantisations of an image")] = 1,
    probes: Annotated[int, typer.Option(min=1, help="Hutchinson probes of a draw")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="of starts, dequantisation and probes")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="samples or images solved at once")] = 256,
    statistics: Annotated[
        Path | None, typer.Option(help="file that `statistics` wrote, whose distance is taken [the shipped one]")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="into the card, and the samples beside the weights")] = False,
    out_folder: Annotated[Path, typer.Option("--out", help="without --write: folder for the samples")] = Path(
        "results/evaluation"
    ),
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON object")] = False,
) -> None:
    """Converged samples of a score model, their Fréchet distance beside real images', bits/dim: for its card."""
    from bench.environment import resolve_device
    from bench.evaluate import Amount, lines_of, own_files, write_evaluation
    from bench.evaluate import evaluate as measure
    from pretrained.provenance import write_atomically

    amount = Amount(n, images, draws, probes, seed, batch_size)
    if write:
        own_files(checkpoint, folder)
    found, picture = measure(checkpoint, amount, resolve_device(device), folder, statistics)
    if write:
        written = list(write_evaluation(checkpoint, found, picture, folder))
    else:
        out_folder.mkdir(parents=True, exist_ok=True)
        written = [out_folder / f"{Path(checkpoint).name}.png"]
        write_atomically(written[0], picture)
    if as_json:
        sys.stdout.write(json.dumps(found.model_dump(mode="json"), indent=1) + "\n")
        return
    for line in [*lines_of(found), f"Written: {', '.join(map(str, written))}"]:
        out.print(line, soft_wrap=True, markup=False, highlight=False)


def statistics(
    data: Annotated[str, typer.Argument(help="name of a data set, see `list data`")],
    extractor: Annotated[str, typer.Option(help="a classifier of `list checkpoints`, or inception-v3-compat")],
    out_file: Annotated[Path, typer.Option("--out", help="file to write, .npz")],
    split: Annotated[str, typer.Option(help="test or train")] = "test",
    setting: Annotated[list[str] | None, typer.Option(help="of the data, NAME=VALUE; repeatable")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Mean and covariance of real images' features, with the hashes that `evaluate` holds them against."""
    from bench.environment import resolve_device
    from bench.feature_statistics import data_settings, save_statistics, statistics_of

    found = statistics_of(data_settings(data, setting or ()), split, extractor, resolve_device(device))
    save_statistics(found, out_file)
    text = f"{found.about.n} images, {found.about.features} features, hash {found.sha256}: {out_file}"
    out.print(text, soft_wrap=True, markup=False, highlight=False)


def likelihood(
    checkpoint: Annotated[str, typer.Argument(help="name of a checkpoint, see `list checkpoints`")],
    data: Annotated[str, typer.Option(help="split of its data: test or train")] = "test",
    solver: Annotated[str, typer.Option(help="ODE solver, name or name?setting=value")] = "dpmpp_3m",
    nfe: Annotated[int, typer.Option(min=1, help="evaluations a dequantised image, for fixed steps")] = 50,
    grid: Annotated[str, typer.Option(help="for fixed steps")] = "log_snr",
    n: Annotated[int | None, typer.Option(min=2, help="images, the first of the split [all, at most 1000]")] = None,
    draws: Annotated[int, typer.Option(min=1, help="dequantisations of an image")] = 2,
    probes: Annotated[int, typer.Option(min=1, help="Hutchinson probes of a draw")] = 2,
    sketch: Annotated[int, typer.Option(min=0, help="directions of Hutch++ beside the probes, two passes each")] = 0,
    law: Annotated[str, typer.Option(help="of the probes: rademacher or gaussian")] = "rademacher",
    dequantisation: Annotated[
        str, typer.Option(help="uniform, variational, or name or card (.yaml) of a dequantiser")
    ] = "uniform",
    seed: Annotated[int, typer.Option(min=0, help="of dequantisation and probes")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="images solved at once")] = 256,
    folder: Annotated[Path | None, typer.Option(help="of a checkpoint trained here")] = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON object")] = False,
) -> None:
    """Bits/dim of images under a checkpoint's probability flow, with each of its errors apart."""
    from bench.environment import resolve_device
    from bench.likelihood_command import bits_of

    load_plugins(plugin)
    where = resolve_device(device)
    size = (n, draws, probes, sketch, batch_size)
    values = bits_of(checkpoint, data, solver, nfe, grid, size, law, seed, where, folder, dequantisation)
    if as_json:
        sys.stdout.write(json.dumps(values, indent=1) + "\n")
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("", "value", "standard error"):
        table.add_column(column)
    for entry in values.values():
        value, error = (None if number is None else f"{number:.4g}" for number in (entry["value"], entry["error"]))
        table.add_row(f"{entry['label']}, {entry['unit']}", value or entry["reason"], error)
    out.print(table)


def encode(
    checkpoint: Annotated[str, typer.Argument(help="name of a checkpoint, see `list checkpoints`")],
    out_folder: Annotated[Path, typer.Option("--out", help="folder for figures and table")] = Path("results/encoding"),
    data: Annotated[str, typer.Option(help="split of its data: test or train")] = "test",
    solver: Annotated[str, typer.Option(help="ODE solver, name or name?setting=value")] = "dpmpp_3m",
    nfe: Annotated[int, typer.Option(min=1, help="evaluations each way, for fixed steps")] = 50,
    n: Annotated[int, typer.Option(min=2, help="images, the first of the split")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="of the dequantisation")] = 0,
    folder: Annotated[Path | None, typer.Option(help="of a checkpoint trained here")] = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
) -> None:
    """Encode images, decode them and what lies between two of them: three figures and a table."""
    from bench.encoding_figures import write_encoding
    from bench.environment import resolve_device
    from bench.image_model import CheckpointModel

    load_plugins(plugin)
    model = CheckpointModel(checkpoint, data, resolve_device(device), folder)
    for path in write_encoding(model, solver, nfe, n, seed, out_folder):
        out.print(path, soft_wrap=True, markup=False, highlight=False)
