"""The parts of the documents that are rendered from the registries and from the committed records."""

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import menus
from bench.certificate import ACCEPTS, AGAINST_EVALUATIONS, ORDER, Line
from bench.certificate_tables import measured_range, summary
from bench.check import read
from bench.environment import ROOT
from bench.evaluate import lines_of
from bench.metrics.metric import metric_classes
from bench.published_values import published_table
from bench.report import provenance_text
from bench.store import Store
from bench.tables import long_table, markdown_table, number, summary_table
from pretrained.evaluation import Evaluation
from pretrained.published import load_published_card, published_names
from solvers.errors import UsageError
from solvers.peers.schedulers import NOT_ADAPTED
from solvers.registry import get_solver

REFERENCE = ROOT / "results" / "reference" / "quick"
CERTIFICATES = ROOT / "results" / "reference" / "certificates"

# What the README shows of the reference run: problem, metric, heading; at these budgets, on the common grid.
COLUMNS = (
    ("gaussian", "pathwise_rmse", "Gaussian, pathwise error"),
    ("mixture_2d", "sliced_w2", "mixture, sliced W2"),
    ("digits", "fd_digits", "digits, Fréchet distance"),
)
BUDGETS = (10, 50)
COMMON_GRID = "log_snr"


def _results() -> str:
    """The reference run's values on the common grid."""
    records = list(Store(REFERENCE).records())
    points = summary_table(long_table(records))
    heads = [f"{head}, NFE {budget}" for _, _, head in COLUMNS for budget in BUDGETS]
    rows: list[list[str | None]] = []
    shown = points[points.grid == COMMON_GRID]
    for (solver, settings), own in shown.groupby(["solver", "settings"]):
        texts: list[str | None] = [f"{solver} ({settings})" if settings else str(solver)]
        for problem, metric, _ in COLUMNS:
            for budget in BUDGETS:
                match = own[(own.problem == problem) & (own.metric == metric) & (own.budget == budget)]
                known = match[match.value.notna()]
                texts.append(number(known.value.iloc[0], known.standard_error.iloc[0]) if len(known) else None)
        rows.append(texts)
    floors: list[str | None] = ["*floor*"]
    for problem, metric, _ in COLUMNS:
        own = points[(points.problem == problem) & (points.metric == metric)]
        floors += [f"*{number(own.floor.mean(), own.floor_error.mean())}*"] * len(BUDGETS)
    return "\n".join([markdown_table(["solver", *heads], [*rows, floors]), "", provenance_text(records)])


def _table(rows: menus.Rows, columns: dict[str, str]) -> str:
    """Rows of a menu as a Markdown table of some of their columns."""
    return markdown_table(columns.values(), ([row[key] for key in columns] for row in rows))


def _certified(row: dict[str, Any], lines: Sequence[Line]) -> list[Line]:
    """The lines of the order that a solver declares at its defaults, at the settings nearest to them."""
    defaults = get_solver(row["name"]).settings
    claims = (ORDER, AGAINST_EVALUATIONS)
    own = [v for v in lines if v.solver == row["name"] and v.claim in claims and v.declared == row["order"]]
    distances = [sum(v.settings.get(key) != value for key, value in defaults.items()) for v in own]
    return [v for v, distance in zip(own, distances, strict=True) if distance == min(distances)]


def _measured() -> menus.Rows:
    """Solvers with what the committed certificates say of them; "–" where they say nothing."""
    lines, _ = read(CERTIFICATES)
    rows = []
    for row in menus.solvers():
        order = _certified(row, lines)
        own = [v for v in lines if v.solver == row["name"] and v.settings == get_solver(row["name"]).settings]
        refused = {v.sde for v in own if v.claim == ACCEPTS}
        accepted = [sde for sde in dict.fromkeys(v.sde for v in own) if sde not in refused]
        rows.append(
            {
                **row,
                "gaussian": measured_range(order, "gaussian"),
                "mixture": measured_range(order, "mixture_2d"),
                "SDEs": None if not own else "all" if not refused else ", ".join(accepted),
            }
        )
    return rows


def _least(measured: str) -> str:
    return measured.partition("…")[0]


def _solvers() -> str:
    """A line a family: its solvers with measured order and evaluations a step, SDEs, references."""
    families: dict[str, menus.Rows] = {}
    for row in _measured():
        families.setdefault(row["family"], []).append(row)
    rows = []
    for family, members in sorted(families.items()):
        told = [f"`{row['name']}` ({_least(row['gaussian'])}, {row['evaluations per step'] or '–'})" for row in members]
        sdes = dict.fromkeys(row["SDEs"] for row in members if row["SDEs"])
        references = dict.fromkeys(re.split(", (?:arXiv|sec|J)|,? github", row["reference"])[0] for row in members)
        shown = "; ".join(sdes) or None
        rows.append({"family": family, "solvers": ", ".join(told), "SDEs": shown, "references": "; ".join(references)})
    return _table(rows, {"family": "family", "solvers": SOLVERS_HEAD, "SDEs": "SDEs", "references": "references"})


SOLVERS_HEAD = "solvers (least order measured on the Gaussian, evaluations a step)"


def _solver_table() -> str:
    """Every solver with what it declares and what was measured."""
    rows = [{**row, "settings": ", ".join(f"`{setting}`" for setting in row["settings"])} for row in _measured()]
    columns = {
        "name": "solver",
        "family": "family",
        "order": "order declared",
        "gaussian": "measured, Gaussian",
        "mixture": "measured, mixture",
        "evaluations per step": "evaluations a step",
        "SDEs": "SDEs",
        "settings": "settings and their defaults",
        "recommended grid": "its authors' grid",
        "reference": "reference",
    }
    return "\n".join([_table(rows, columns), "", _provenance()])


def _provenance() -> str:
    """What the certificates count, and where they were measured."""
    lines, where = read(CERTIFICATES)
    if where is None:
        return "No certificates are committed."
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    return (
        f"{summary(lines).partition('  ')[0]}. {where.date}, {where.cpu}, {where.cores} cores; {versions}; "
        f"commit {where.commit}{' (dirty)' if where.dirty else ''}."
    )


def _problems() -> str:
    """Problems; those that differ in their network alone share a line."""
    lines: dict[tuple[str, str], menus.Rows] = {}
    for row in menus.problems():
        data, _, network = row["summary"].partition(NETWORK)
        told = ", ".join(f"`{name}`" for name in row["metrics"])
        lines.setdefault((data, told), []).append({"name": row["name"], "network": network})
    rows = []
    for (data, told), members in lines.items():
        networks = ", ".join(row["network"] for row in members if row["network"])
        summary = f"{data}{NETWORK if len(members) == 1 else ', networks '}{networks}" if networks else data
        rows.append({"name": ", ".join(row["name"] for row in members), "summary": summary, "metrics": told})
    return _table(rows, {"name": "problem", "summary": "what it is", "metrics": "metrics"})


BETTER = {"lower": "lower is better", "higher": "higher is better", "none": "does not rank"}


def _metrics() -> str:
    """Every metric: what it is, its formula, unit, limits, and the problems it is taken on."""
    taken: dict[str, list[str]] = {}
    for row in menus.problems():
        for name in row["metrics"]:
            taken.setdefault(name, []).append(row["name"])
    parts = []
    for name, cls in metric_classes().items():
        summary, *rest = (inspect.getdoc(cls) or "").split("\n\n")
        # A paragraph that does not end as a sentence is a formula.
        told = [part if part.endswith(".") else f"```text\n{part}\n```" for part in rest]
        low, high = (f"{limit:g}".replace("inf", "∞") for limit in cls.limits)
        facts = [f"unit: {cls.unit}", BETTER[cls.direction], f"limits: {low} to {high}"]
        facts.append(f"taken on: {', '.join(taken[name])}" if name in taken else "taken where a problem lists it")
        parts.append("\n\n".join([f"### {name}", summary, *told, f"{'; '.join(facts)}. {cls.reference}."]))
    return "\n\n".join(parts)


def _data() -> str:
    columns = {"name": "name", "summary": "what it is", "shape": "shape", "levels": "levels L", "classes": "classes"}
    rows: menus.Rows = []
    for row in menus.data():
        settings = ", ".join(f"`{setting}`" for setting in row["settings"])
        rows.append(row | {"name": f"`{row['name']}`", "settings": settings or None})
    return _table(rows, columns | {"flip": "flip", "settings": "settings", "licence": "licence", "source": "source"})


def _checkpoints() -> str:
    """Shipped checkpoints and what their cards say."""
    rows: menus.Rows = []
    for row in menus.checkpoints():
        if row["kind"] != "published":
            accuracy = None if row["accuracy"] is None else f"{row['accuracy']:.1%}"
            rows.append(row | {"name": f"`{row['name']}`", "accuracy": accuracy})
    columns = {"name": "name", "data": "data", "SDE": "SDE", "parameters": "parameters", "size": "size"}
    measured = ("bits/dim", "Fréchet distance", "floor", "n", "accuracy", "licence")
    return _table(rows, columns | {key: key for key in measured})


def _grids() -> str:
    """Samples of the shipped score models, as their evaluations left them."""
    parts = []
    for row in menus.checkpoints():
        found = row["evaluation"]
        if found is None:
            continue
        path = f"../pretrained/checkpoints/{row['name']}.png"
        told = " ".join(lines_of(Evaluation.model_validate(found)))
        parts.append(f"### {row['name']}\n\n{row['description']} {told}\n\n![samples of {row['name']}]({path})")
    return "\n\n".join(parts) or "None has been evaluated yet."


NETWORK = ", network "


def _published() -> str:
    """Configurations of Song et al. and the files of their weights."""
    rows: menus.Rows = []
    for name in published_names():
        card = load_published_card(name)
        where = {"file": None, "page": None} if card.source is None else card.source.model_dump()
        rows.append({"name": f"`{name}`", "parameters": card.parameters, "description": card.description, **where})
    columns = {
        "name": "name",
        "parameters": "parameters",
        "description": "what it is",
        "file": "file",
        "page": "download",
    }
    return _table(rows, columns)


def _peers() -> str:
    return _table(menus.peers(), {"name": "sampler", "claim": "where its order is claimed"})


def _not_adapted() -> str:
    rows = [{"name": f"diffusers:{name}", "reason": reason} for name, reason in sorted(NOT_ADAPTED.items())]
    return _table(rows, {"name": "not adapted", "reason": "because"})


def _published_values() -> str:
    return published_table() or ""


SECTIONS: dict[str, Callable[[], str]] = {
    "results": _results,
    "problems": _problems,
    "solvers": _solvers,
    "solver table": _solver_table,
    "metrics": _metrics,
    "published": _published,
    "data": _data,
    "checkpoints": _checkpoints,
    "grids": _grids,
    "published values": _published_values,
    "peers": _peers,
    "not adapted": _not_adapted,
}

# The sections that each page holds.
PAGES = {
    "README.md": ("results", "problems", "solvers"),
    "docs/solvers.md": ("solver table",),
    "docs/metrics.md": ("metrics",),
    "docs/networks.md": ("published",),
    "docs/checkpoints.md": ("checkpoints", "grids"),
    "docs/training.md": ("data",),
    "docs/cifar10.md": ("published values",),
    "docs/peers.md": ("peers", "not adapted"),
}


def render(page: str, text: str) -> str:
    """The text of a page with every ``<!-- begin NAME -->`` … ``<!-- end NAME -->`` section made anew.

    Raises:
        UsageError: a section's markers are missing.
    """
    for name in PAGES[page]:
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise UsageError("docs", f"{page} holds the markers of its sections", begin, "Put both markers back")
        section = f"{begin}\n{SECTIONS[name]()}\n{end}".replace("\\", r"\\")
        text = pattern.sub(section, text)
    return text


def update_pages(check: bool, root: Path = ROOT) -> list[str]:
    """Render the pages' sections in place, or only compare; returns the pages that were stale."""
    stale = []
    for page in PAGES:
        before = (root / page).read_text(encoding="utf-8")
        after = render(page, before)
        if after != before:
            stale.append(page)
            if not check:
                (root / page).write_text(after, encoding="utf-8")
    return stale
