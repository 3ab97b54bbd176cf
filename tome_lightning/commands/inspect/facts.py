"""What a checkpoint is, without running anything in it: what ``inspect`` shows."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models import get_pretrained_cfg

import checkpoints
import recipes
from checkpoints import hub
from checkpoints.hints import fits
from checkpoints.hub_folder import has_weights, weight_files
from checkpoints.layout import SIZES
from checkpoints.licence import licence_of, licence_of_name
from checkpoints.notes import exported
from checkpoints.reading import read
from checkpoints.report import describe_sets
from checkpoints.sources import SOURCES, weights_dir
from tome_lightning.arguments import read_yaml
from tome_lightning.commands.loaded import best_metrics, from_recipe, run_header
from tome_lightning.errors import UsageError
from tome_lightning.trainer.progress import Progress
from tome_lightning.trust import recipe_name

SOUNDS = ("audiomae", "ast")
WIDTH = 100  # characters of a line


def inspect_checkpoint(name: str | Path) -> dict[str, Any]:
    """What is known of a checkpoint, as plain values that JSON takes.

    Args:
        name: A file, a folder in the Hub's layout, a name in ``checkpoints.SOURCES``, a timm name, or
            ``hf-hub:OWNER/NAME``. No weights are downloaded.

    Returns:
        By key, as far as they are known: ``what``, ``family``, ``kind``, ``model`` (in words),
        ``depth``, ``width``, ``parameters``, ``dtype``, ``num_classes``, ``class_names``, ``input``,
        ``pooling``, ``r``, ``prop_attn``, ``epoch``, ``step``, ``metrics``, ``recipe``, ``versions``,
        ``averaged``, ``held`` (the sets of weights, live and averaged, and how the file calls them),
        ``taken`` (the one that loading takes), ``started_from``, ``licence``, ``size_mib``,
        ``config`` (what the ``config.json`` of the Hub says), ``preprocessing``.

    Raises:
        checkpoints.CheckpointError: It cannot be read, is damaged or unsafe, or is no ViT.
        UsageError: It is a folder that holds no checkpoint.
    """
    path = Path(name).expanduser()
    if checkpoints.from_hub(name):
        return _of_hub(str(name))
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder. Name a checkpoint in it: {path}/checkpoints/best.ckpt"
        )
    if not path.is_file():
        return _of_name(str(name))
    ours = run_header(path)
    facts: dict[str, Any] = {"size_mib": round(path.stat().st_size / 2**20, 1)}
    facts |= _of_weights(path)
    if about := exported(path):
        return {"what": "weights that `export` wrote", **facts, **_of_export(about)}
    if ours is None:
        return {"what": "weights", **facts, "licence": _licence(path)}
    return {"what": "a run's checkpoint", **facts, **_of_run(ours)}


def format_facts(facts: Mapping[str, Any]) -> str:
    """The facts as lines for the screen."""
    rows: dict[str, str] = {"what": str(facts["what"])}
    if facts.get("averaged"):
        rows["what"] += " (averaged weights)"
    kind = ", ".join(str(facts[key]) for key in ("family", "kind") if facts.get(key))
    rows["weights"] = kind
    rows["sets"] = describe_sets(facts["taken"], facts["held"]) if facts.get("held") else ""
    rows["model"] = str(facts.get("model") or "")
    rows["input"] = str(facts.get("input") or "")
    rows["classes"] = _classes(facts)
    for key in ("config", "preprocessing"):
        words = (f"{name}={value}" for name, value in (facts.get(key) or {}).items())
        rows["samples" if key == "preprocessing" else key] = ", ".join(words)
    if facts.get("r") is not None:
        rows["merging"] = f"r={facts['r']}, prop_attn={facts['prop_attn']}"
    if facts.get("epoch") is not None:
        rows["trained"] = f"epoch {facts['epoch']}, step {facts.get('step')}"
    metrics = facts.get("metrics") or {}
    rows["best"] = ", ".join(f"{name} {value:.2%}" for name, value in metrics.items())
    for key in ("recipe", "started_from", "saved_by", "licence", "address"):
        rows[key.replace("_", " ")] = str(facts.get(key) or "")
    if facts.get("size_mib") is not None:
        rows["file"] = f"{facts['size_mib']:g} MiB, {facts.get('dtype') or 'shares'}"
    indent = " " * 15
    return "\n".join(
        textwrap.fill(
            f"  {name:<12} {words}", WIDTH, subsequent_indent=indent, break_on_hyphens=False
        )
        for name, words in rows.items()
        if words
    )


def fitting_recipes(facts: Mapping[str, Any]) -> list[str]:
    """Shipped recipes whose model has this checkpoint's kind of input, depth and width."""
    size = facts.get("depth"), facts.get("width")
    if None in size:
        return []
    found = []
    for name in recipes.names():
        model = read_yaml(recipes.path(name)).get("model") or {}
        vit = model.get("vit") or {}
        kind = str((model.get("input") or {}).get("class_path", "")).rpartition(".")[2]
        same = (vit.get("depth"), vit.get("embed_dim")) == size
        if same and kind == _input_kind(facts):
            found.append(name)
    return found


def dry_run(name: str | Path, recipe: str) -> str:
    """What of a checkpoint a recipe's model would take; nothing is trained.

    Raises:
        checkpoints.CheckpointError: It does not fit; says why.
        UsageError: The recipe is wrong.
    """
    section = read_yaml(recipes.path(recipe)).get("model") or {}
    built = from_recipe(["--recipe", recipe, "--model.checkpoint=null"])
    inflate, weights = bool(section.get("inflate")), section.get("weights")
    return str(checkpoints.load(built.vit, name, inflate=inflate, weights=weights))


def _of_hub(name: str) -> dict[str, Any]:
    """A folder in the Hub's layout or a repository, from its weights where they are on this machine."""
    folder = hub.cached(name) if hub.is_hub_name(name) else Path(name).expanduser()
    licence = licence_of(name) or "not stated: see the card of the repository"
    if folder is not None and has_weights(folder):
        files = weight_files(folder)
        size = sum(file.stat().st_size for file in files) / 2**20
        facts = {"what": "weights in the Hub's layout", "size_mib": round(size, 1)}
        return {**facts, **_of_weights(folder), "licence": licence}
    identity = checkpoints.identify(name)
    return {
        "what": "a repository of the Hub whose weights are not on this machine",
        **_of_identity(identity),
        "licence": licence,
        "address": f"Hugging Face hub: {name.removeprefix(hub.PREFIX)}",
    }


def _of_identity(identity: checkpoints.Identity) -> dict[str, Any]:
    known = identity.preprocessing.known()
    return {
        "family": identity.family,
        "kind": identity.kind,
        "model": _size(identity),
        "depth": identity.depth,
        "width": identity.width,
        "num_classes": identity.num_classes,
        "class_names": list(identity.class_names),
        "pooling": identity.pooling,
        "tubelet": identity.tubelet,
        "positions": identity.positions,
        "spectrogram": identity.family in SOUNDS,
        "config": {} if identity.config is None else identity.config.known(),
        "preprocessing": {k: list(v) if isinstance(v, tuple) else v for k, v in known.items()},
    }


def _of_weights(path: Path) -> dict[str, Any]:
    identity = checkpoints.identify(path)
    found = read(path)
    weights = found.weights.values()
    dtypes = Counter(str(value.dtype).removeprefix("torch.") for value in weights)
    count = sum(value.numel() for value in weights)
    return {
        **_of_identity(identity),
        "model": f"{_size(identity)}, {count / 1e6:.1f} M parameters",
        "parameters": count,
        "dtype": ", ".join(dtypes),
        "spectrogram": found.mel_grid is not None or identity.family in SOUNDS,
        "averaged": found.averaged,
        "held": dict(found.held),
        "taken": found.taken,
    }


def _size(identity: checkpoints.Identity) -> str:
    name = SIZES.get((identity.width, identity.depth), "ViT")
    return f"{name}: {identity.depth} blocks, {identity.width} wide"


def _of_run(saved: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = saved["hyper_parameters"]
    ours: dict[str, Any] = saved.get("tome_lightning") or {}
    progress = Progress.read(dict(saved))
    versions = ours.get("versions") or {}
    start = given.get("checkpoint")
    start = start if fits(start, str) else None
    return {
        "family": ours.get("family"),
        **_of_parts(given),
        "class_names": ours.get("class_names"),
        "r": given.get("r"),
        "prop_attn": given.get("prop_attn"),
        "epoch": saved.get("epoch"),
        "step": progress.steps if progress else saved.get("global_step"),
        "metrics": best_metrics(saved),
        "recipe": recipe_name(ours),
        "versions": versions,
        "saved_by": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "averaged": "averaging_state" in saved,
        "started_from": str(start) if start else "random weights",
        "licence": _inherited(start),
    }


def _of_export(about: Mapping[str, Any]) -> dict[str, Any]:
    names, versions = about.get("class_names"), _mapping(about.get("versions"))
    return {
        **_of_parts(_mapping(about.get("hyper_parameters"))),
        "class_names": names if isinstance(names, list) else None,
        "r": about.get("r"),
        "prop_attn": about.get("prop_attn"),
        "recipe": about.get("recipe"),
        "versions": versions,
        "saved_by": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "averaged": bool(about.get("averaged")),
        "licence": about.get("licence") or "not in the file",
    }


def _of_parts(given: Mapping[str, Any]) -> dict[str, Any]:
    """What hyper-parameters say of the model's input and task."""
    part, task = _mapping(given.get("input")), _mapping(given.get("task"))
    kind = str(part.get("class_path", "")).rpartition(".")[2]
    sizes = _mapping(part.get("init_args"))
    words = ", ".join(f"{key}={value}" for key, value in sizes.items() if value is not None)
    return {
        "input": f"{kind}({words})" if kind else None,
        "spectrogram": kind == "Spectrogram",
        "num_classes": _mapping(task.get("init_args")).get("num_classes"),
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    """A value out of a file if it is a mapping, as in our own files; else an empty one."""
    return value if isinstance(value, Mapping) else {}


def _of_name(name: str) -> dict[str, Any]:
    """A published checkpoint, from its copy on this machine or from what is known of it."""
    source = SOURCES.get(name)
    if source is not None and (weights_dir() / source.file).is_file():
        kept = weights_dir() / source.file
        return {**inspect_checkpoint(kept), "licence": source.how, "address": f"here: {kept}"}
    identity = checkpoints.identify(name)
    facts = {
        "what": "a published checkpoint that is not on this machine", **_of_identity(identity)
    }  # fmt: skip
    if source is not None:
        by_hand = f"to be fetched by hand, as {weights_dir() / source.file}"
        return {**facts, "licence": source.how, "address": source.url or by_hand}
    config = get_pretrained_cfg(name)
    licence = getattr(config, "license", None) or "not stated by timm: see the model's page"
    place = getattr(config, "hf_hub_id", None)
    return {**facts, "licence": licence, "address": f"Hugging Face hub: {place}" if place else None}


def _licence(path: Path) -> str:
    known = licence_of(path)
    return f"not in the file: {known}" if known else "not in the file"


def _inherited(start: str | None) -> str:
    if not start:
        return "yours: trained from random weights"
    return licence_of_name(start) or f"follows that of {start}"


def _input_kind(facts: Mapping[str, Any]) -> str:
    if facts.get("tubelet"):
        return "Clip"
    return "Spectrogram" if facts.get("spectrogram") else "Image"


def _classes(facts: Mapping[str, Any]) -> str:
    count, names = facts.get("num_classes"), facts.get("class_names") or []
    if not count:
        return "no head"
    shown = ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "")
    return f"{count}" + (f": {shown}" if names else "")
