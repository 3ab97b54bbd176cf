"""The sets of weights in a file: live ones and averages, without wrappers and prefixes.

A ViT is found by its patch kernel, wherever it is: `state_dict`, `model_ema`, `module.encoder.…`. All
families then see the same names, the encoder's own.
"""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from torch import Tensor

from . import hf_names
from .errors import CheckpointError
from .layout import KERNEL, is_decoder
from .notes import noted

Which = Literal["live", "ema"]
"""`live` is what the optimizer steps on, `ema` an average of it over training, as some teachers are."""

WORDS: Mapping[Which, str] = MappingProxyType({"live": "live weights", "ema": "averaged weights"})

CONTAINERS = ("model", "model_state", "module", "state_dict")
"""Keys that files put their weights under, the first choice first."""

_AVERAGES = re.compile(
    r"(?:^|[._])(?:ema|swa|teacher|momentum|target|avg|averaged?|shadow)(?:[._]|$)", re.IGNORECASE
)
_TAIL = re.compile(r"^(?:head|head_dist|head\.projection|fc_norm)\.(?:weight|bias)$")


class WeightSet(NamedTuple):
    """Weights under the encoder's own names.

    `where` says how the file calls them, "" where it holds nothing else; `beside` are names that belong
    to no ViT (a projector, a loss): they are in no one's way and left out.
    """

    where: str
    weights: dict[str, Tensor]
    beside: tuple[str, ...] = ()


Sets = Mapping[Which, tuple[WeightSet, ...]]


def weight_sets(content: Mapping[str, object]) -> Sets:
    """What a file holds, by kind; empty where there are no tensors."""
    found = [
        _under(path, tensors, prefix)
        for path, tensors in _containers(content)
        for prefix in _prefixes(tensors)
    ]
    if not found:  # no ViT: loading says so, of the names that are there
        tensors = _tensors(unwrapped(content))
        return {"live": (WeightSet("", _stripped(tensors)),)} if tensors else {}
    averages = tuple(one for one in found if _is_average(one, content))
    live = tuple(one for one in found if not _is_average(one, content))
    sets: dict[Which, tuple[WeightSet, ...]] = {"live": live, "ema": averages}
    if "averaging_state" in content:  # of Lightning: the averages are what its run has measured
        sets = {"ema": averages, "live": live}
    return {which: some for which, some in sets.items() if some}


def choose(sets: Sets, which: Which | None) -> tuple[Which, WeightSet]:
    """The set of a kind, or by default the file's first.

    Raises:
        CheckpointError: there is none of that kind, or several encoders that nothing tells apart.
    """
    if which is not None and which not in WORDS:
        raise CheckpointError(f"weights is {' or '.join(WORDS)}, got {which!r}")
    if which is not None and which not in sets:
        here = next(iter(sets))
        where = f" under {sets[here][0].where}" if sets[here][0].where else ""
        raise CheckpointError(
            f"it has no {WORDS[which]} (weights={which}), only {WORDS[here]}{where}: "
            f"set --model.weights {here}, or leave it out"
        )
    taken = next(iter(sets)) if which is None else which
    return taken, _first(sets[taken])


def _is_average(one: WeightSet, content: Mapping[str, object]) -> bool:
    if "averaging_state" in content:  # Lightning's weight averaging puts the live ones aside
        return not one.where.startswith("current_model_state")
    if (noted(content) or {}).get("averaged"):  # an export of ours
        return True
    return bool(_AVERAGES.search(one.where)) or "n_averaged" in one.beside  # torch's AveragedModel


def _first(some: tuple[WeightSet, ...]) -> WeightSet:
    def rank(one: WeightSet) -> int:
        key = one.where.partition(".")[0]
        return CONTAINERS.index(key) if key in CONTAINERS else len(CONTAINERS)

    best = [one for one in some if rank(one) == min(map(rank, some))]
    if len(best) > 1:
        names = " and ".join(one.where or "no prefix" for one in best[:3])
        raise CheckpointError(
            f"it holds {len(best)} encoders, under {names}, and which is meant cannot be told: "
            "save the one you want alone, as safetensors"
        )
    return best[0]


def _containers(
    content: Mapping[str, object], path: str = "", depth: int = 3
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of tensors, and how it is reached; a dict in a pickle can hold itself."""
    if tensors := _tensors(content):
        yield path, tensors
    for key, inner in content.items() if depth else ():
        moments = str(key).startswith("optim")  # those of Adam may have the names of weights
        if isinstance(inner, Mapping) and inner is not content and not moments:
            yield from _containers(inner, f"{path}{key}.", depth - 1)


def _tensors(content: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors of a mapping, without what torch.compile put between, and under timm's names."""
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    plain = {name.replace("_orig_mod.", ""): value for name, value in tensors.items()}
    return hf_names.to_timm(plain) if hf_names.is_transformers(plain) else plain


def _prefixes(weights: Mapping[str, Tensor]) -> list[str]:
    """What stands before each encoder's names."""
    kernels = [name for name in weights if name == KERNEL or name.endswith(f".{KERNEL}")]
    return [name.removesuffix(KERNEL) for name in kernels if not is_decoder(name)]


def _under(path: str, weights: Mapping[str, Tensor], prefix: str) -> WeightSet:
    """The encoder under a prefix, and of what is beside it the decoder and the head."""
    others = [
        other for other in _prefixes(weights) if other != prefix and len(other) >= len(prefix)
    ]
    inside: dict[str, Tensor] = {}
    outside: dict[str, str] = {}
    for name in weights:
        if any(name.startswith(other) for other in others):
            continue  # another encoder's
        if name.startswith(prefix):
            inside[name.removeprefix(prefix)] = weights[name]
        else:
            outside[name] = _above(name, prefix)
    beside = []
    for name, plain in outside.items():
        if plain not in inside and (is_decoder(plain) or _TAIL.match(plain)):
            inside[plain] = weights[name]
        else:
            beside.append(name)
    return WeightSet(f"{path}{prefix}".rstrip("."), inside, tuple(beside))


def _above(name: str, prefix: str) -> str:
    """A name without the wrappers that it shares with the encoder: `module.` of `module.encoder.`."""
    for part in prefix.split(".")[:-1]:
        if not name.startswith(f"{part}."):
            break
        name = name.removeprefix(f"{part}.")
    return name


def unwrapped(content: Mapping[str, object], depth: int = 2) -> Mapping[str, object]:
    """What is under the usual keys; the content itself where none is there."""
    for key in CONTAINERS if depth else ():
        if isinstance(inner := content.get(key), Mapping):
            return unwrapped(inner, depth - 1)
    return content


def _stripped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix that all names share."""
    for prefix in ("module.", "model.", "vit."):
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights
