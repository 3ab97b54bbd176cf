"""Runs side by side, from their ``summary.json``: what ``compare`` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from checkpoints.bounds import read_json, read_mapping
from checkpoints.hints import Number, fits
from tome_lightning.arguments import flat, parse_yaml
from tome_lightning.errors import UsageError

WIDTH = 100  # characters of a line, where so many runs fit
NAMES = 34  # characters of the names at most
COLUMN = (14, 26)  # of a run's column at least and at most
POINTS = ("top1", "top5", "mAP")
PATHS = ("checkpoint",)
SUMMARY: dict[str, Any] = {  # what is used of summary.json, which anybody may have written
    "checkpoint": str | None, "device": str | None, "effective_batch": int | None, "ended": str,
    "limited_by": str | None, "macs": dict[str, Number] | None, "measured_on": str | None,
    "metrics": dict[str, Number], "peak_mem_mib": Number | None, "plan": list[int],
    "precision": str | None, "r": int | list[int] | dict[str, Number] | None, "recipe": str | None,
    "speed_by_r": list[dict[str, object]] | None, "step_ms": Number | None, "steps": int, "lists": object,
    "tokens": list[int] | None, "train_plan": list[int] | None,
}  # fmt: skip
FACTS: dict[str, Any] = {  # of environment.json
    "cpu": dict[str, object], "gpus": list[dict[str, object]], "versions": dict[str, str],
}  # fmt: skip


class RunSummary(NamedTuple):
    """What a run's directory says of it.

    Attributes:
        name: Its directory, as given.
        summary: ``summary.json``.
        config: ``config.yaml`` with dotted names; empty if it is not there.
        environment: ``environment.json``; empty if it is not there.
    """

    name: str
    summary: dict[str, Any]
    config: dict[str, Any]
    environment: dict[str, Any]


def read_run(path: str | Path) -> RunSummary:
    """Read what a run left behind.

    Args:
        path: A run directory, or a ``summary.json``.

    Raises:
        UsageError: There is no summary, or it is none of ours.
    """
    file = Path(path)
    file = file if file.suffix == ".json" else file / "summary.json"
    try:
        summary = read_json(file)
    except OSError as error:
        why = "the run has not ended" if file.parent.is_dir() else "there is no such run"
        raise UsageError(
            f"{file} cannot be read ({error.strerror}): {why}. Name a run directory such as "
            "runs/quickstart/0, or its summary.json."
        ) from error
    except ValueError as error:
        raise UsageError(f"{file} is no JSON ({error}). Name a run's summary.json.") from error
    if not isinstance(summary, dict) or not {"metrics", "plan"} <= summary.keys():
        raise UsageError(f"{file} is no summary of a run: it has no metrics and plan.")
    for name, hint in SUMMARY.items():
        if name in summary and not fits(summary[name], hint):
            raise UsageError(
                f"{file} is no summary of a run: its {name} is none that a run writes."
            )
    environment = _environment(file.parent)
    summary.setdefault("device", _hardware(environment))  # of a version that did not say
    return RunSummary(str(path), summary, _config(file.parent), environment)


def compare(*paths: str | Path) -> dict[str, Any]:
    """Lay runs side by side.

    The one run with r=0, the dense control, is what the others are measured against; without one, or
    with several, the first.

    Args:
        paths: Two or more run directories or ``summary.json`` files.

    Returns:
        ``runs``: their names, the reference first; ``rows``: by what, a value for each run;
        ``against``: by what, the difference in metrics (as fractions) and the ratio of speeds and
        memory to the reference; ``differing``: config values that are not the same; ``warnings``:
        what makes the comparison unfair.

    Raises:
        UsageError: Fewer than two, or one that cannot be read.
    """
    if len(paths) < 2:
        raise UsageError("compare needs two runs or more: compare runs/NAME/0 runs/NAME/1")
    runs = [read_run(path) for path in paths]
    dense = [run for run in runs if not any(_merged(run.summary))]
    first = dense[0] if len(dense) == 1 else runs[0]
    runs = [first, *(run for run in runs if run is not first)]
    rows = _rows(runs)
    return {
        "runs": [run.name for run in runs],
        "rows": rows,
        "against": _against(rows),
        "differing": _differing(runs),
        "warnings": _warnings(runs),
    }


def format_comparison(found: Mapping[str, Any]) -> str:
    """The comparison as lines for the screen."""
    shown = {
        what: [_cell(what, value) for value in values]
        for what, values in found["rows"].items()
        if any(value not in (None, "") for value in values)
    }
    settings = {
        name: [_cell("", value) for value in values] for name, values in found["differing"].items()
    }
    longest = max(map(len, [*shown, *settings]))
    line = _Line(min(NAMES, longest), len(found["runs"]))
    lines = [line("", found["runs"], end=True)]
    lines += [line(what, cells, end=what in PATHS) for what, cells in shown.items()]
    lines += ["", f"against {found['runs'][0]}:"]
    lines += [line(what, ["", *values[1:]]) for what, values in found["against"].items()]
    if settings:
        lines += ["", "settings that differ:"]
        lines += [line(name, cells, end=True) for name, cells in settings.items()]
    lines += [f"note: {words}" for words in found["warnings"]]
    return "\n".join(lines)


class _Line:
    """Writes what stands in one line: a name, then a column for each run."""

    def __init__(self, name: int, runs: int) -> None:
        self.name = name
        least, most = COLUMN
        self.column = max(least, min(most, (WIDTH - name) // runs - 2))

    def __call__(self, name: str, cells: Sequence[str], end: bool = False) -> str:
        row = [self._fit(cell, end) for cell in cells]
        name = name if len(name) <= self.name else f"..{name[2 - self.name :]}"
        return (
            f"{name:<{self.name}}" + "".join(f"  {cell:<{self.column}}" for cell in row)
        ).rstrip()

    def _fit(self, cell: str, end: bool) -> str:
        """The beginning of what is too long, or its end, where paths and classes differ."""
        if len(cell) <= self.column:
            return cell
        return f"..{cell[2 - self.column :]}" if end else f"{cell[: self.column - 2]}.."


def _rows(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    summaries = [run.summary for run in runs]
    names = dict.fromkeys(name for summary in summaries for name in summary["metrics"])
    rows: dict[str, list[Any]] = {"recipe": [s.get("recipe") for s in summaries]}
    rows |= {name: [s["metrics"].get(name) for s in summaries] for name in names}
    rows["measured on"] = [s.get("measured_on") for s in summaries]
    rows["r"] = [_r(s.get("r")) for s in summaries]
    rows["tokens merged"] = [sum(s["plan"]) for s in summaries]
    rows["tokens out"] = [(s.get("tokens") or [None])[-1] for s in summaries]
    rows["MACs"] = [(s.get("macs") or {}).get("merged") for s in summaries]
    rows["step ms"] = [_rounded(s.get("step_ms")) for s in summaries]
    rows["samples/s"] = [_rounded(_speed(s)) for s in summaries]
    rows["peak MiB"] = [_rounded(s.get("peak_mem_mib")) for s in summaries]
    rows["batch"] = [s.get("effective_batch") for s in summaries]
    rows["device"] = [s.get("device") for s in summaries]
    rows["limited by"] = [str(s.get("limited_by") or "").partition(":")[0] for s in summaries]
    rows["checkpoint"] = [s.get("checkpoint") for s in summaries]
    return rows


def _against(rows: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, values in rows.items():
        if name in POINTS:
            found[name] = [_points(value, values[0]) for value in values]
        elif name in ("step ms", "samples/s", "peak MiB", "MACs"):
            found[name] = [_ratio(value, values[0]) for value in values]
    return {name: values for name, values in found.items() if any(values[1:])}


def _points(value: Any, reference: Any) -> str:
    return "" if None in (value, reference) else f"{100 * (value - reference):+.2f} points"


def _ratio(value: Any, reference: Any) -> str:
    return "" if not value or not reference else f"{value / reference:.2f}x"


def _differing(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    if not all(run.config for run in runs):
        return {}
    names = dict.fromkeys(name for run in runs for name in run.config)
    values = {name: [run.config.get(name) for run in runs] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def _warnings(runs: Sequence[RunSummary]) -> list[str]:
    lines = []
    for key, words in (
        ("recipe", "the recipes differ: what they share may be little"),
        ("device", "speed was measured on different devices"),
        ("precision", "the precisions differ, and with them the speed"),
        ("effective_batch", "the batches differ, and with them speed and memory"),
        ("measured_on", "the metrics were measured on different numbers of samples or views"),
    ):
        values = [run.summary.get(key) for run in runs]
        known = [value for value in values if value]
        if any(value != known[0] for value in known):
            lines.append(words)
    if len({_measured_list(run.summary) for run in runs} - {None}) > 1:
        lines.append("the lists of data differ: the metrics are of other samples")
    for run in runs:
        ended, steps = run.summary.get("ended", "finished"), run.summary.get("steps")
        if ended != "finished":
            lines.append(f"{run.name} did not finish: {ended} after {steps} steps")
    if len({(run.environment.get("versions") or {}).get("torch") for run in runs} - {None}) > 1:
        lines.append("torch was not of the same version, and with it the speed")
    if not all(run.config for run in runs):
        lines.append("not every run has its config.yaml beside it: settings are not compared")
    return lines


def _config(folder: Path) -> dict[str, Any]:
    """Of a resumed run what it was resumed with last."""
    resumed = sorted(
        folder.glob("config.resume-*.yaml"), key=lambda file: (len(file.name), file.name)
    )
    try:
        newest = [folder / "config.yaml", *resumed][-1]
        content = parse_yaml(newest.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError):
        return {}
    return flat(content) if isinstance(content, dict) else {}


def _environment(folder: Path) -> dict[str, Any]:
    content = read_mapping(folder / "environment.json")
    return {name: value for name, value in content.items() if fits(value, FACTS.get(name, object))}


def _hardware(environment: Mapping[str, Any]) -> str | None:
    gpus = environment.get("gpus") or []
    cpu = environment.get("cpu") or {}
    if gpus:
        return ", ".join(str(gpu.get("name")) for gpu in gpus)
    return f"CPU ({cpu.get('model')}, {cpu.get('cores')} cores)" if cpu else None


def _merged(summary: Mapping[str, Any]) -> list[int]:
    """Tokens that blocks merge, in evaluation and in training."""
    return [*summary["plan"], *(summary.get("train_plan") or [])]


def _measured_list(summary: Mapping[str, Any]) -> Any:
    """The hash of the list that the metrics are of."""
    lists = summary.get("lists")
    used = (lists.get("test") or lists.get("val")) if isinstance(lists, dict) else None
    return None if used is None else str(used)


def _speed(summary: Mapping[str, Any]) -> float | None:
    rows = summary.get("speed_by_r") or []
    rows = [row for row in rows if fits(row.get("steps"), int)]
    most: dict[str, Any] = max(rows, key=lambda row: int(row["steps"]), default={})
    value: Any = most.get("samples_per_s")
    return float(value) if fits(value, Number) else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _r(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)


def _cell(what: str, value: Any) -> str:
    if value is None:
        return "-"
    if what in POINTS:
        return f"{value:.2%}"
    if what == "MACs":
        return f"{value / 1e9:.1f} G" if value >= 1e9 else f"{value / 1e6:.1f} M"
    return f"{value:,.1f}" if isinstance(value, float) and value >= 100 else str(value)
