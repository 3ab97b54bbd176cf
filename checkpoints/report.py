"""What became of every name when a checkpoint was loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .layout import some
from .preprocessing import Preprocessing
from .sets import WORDS, Which


@dataclass(frozen=True)
class LoadReport:
    """What a load did.

    `matched` (the file's value), `reshaped` (made of the file's values in the model's shape: a
    position table resampled or summed, an inflated kernel) and `new` (not in the file, the
    model's own value stays) are names of the model's state dict: disjoint, together all of them.
    `notes` says of each reshaped name what was done. `dropped` are names of the file (as converted
    to timm's) that were not used. `held` are the sets of weights in the file (live and averaged) and
    how it calls them, `taken` the one this is; `preprocessing` is what is known of the samples that the
    weights want, `class_names` are those of the head that was taken, where they are told. Prints as a
    short table.
    """

    source: str
    family: str
    kind: str
    matched: tuple[str, ...]
    new: tuple[str, ...]
    reshaped: tuple[str, ...]
    dropped: tuple[str, ...]
    notes: Mapping[str, str] = field(default_factory=dict)
    taken: Which = "live"
    held: Mapping[Which, str] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: tuple[str, ...] = ()

    @property
    def brief(self) -> str:
        """What was loaded, in a line."""
        aside = [which for which in self.held if which != self.taken]
        rest = f", without its {WORDS[aside[0]]} ({self.held[aside[0]]})" if aside else ""
        return f"{self.source}: {self.family}, {self.kind}{rest}"

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.family}, {self.kind}"]
        if sets := describe_sets(self.taken, self.held):
            lines.append(f"  weights  {sets}")
        lines.append(f"  matched  {len(self.matched):4d}")
        for what in ("new", "reshaped", "dropped"):
            names: tuple[str, ...] = getattr(self, what)
            shown = f"  {some(names, few=4)}" if names else ""
            lines.append(f"  {what:<8} {len(names):4d}{shown}")
            lines += [f"    {name}: {self.notes[name]}" for name in names if name in self.notes]
        return "\n".join(lines)


def describe_sets(taken: Which, held: Mapping[Which, str]) -> str:
    """Which of two sets of weights was taken and how to take the other; "" of a file with one."""
    others = [which for which in held if which != taken]
    if not others:
        return ""
    (other,) = others
    mine, theirs = (held[which] or "names without prefix" for which in (taken, other))
    return (
        f"the {WORDS[taken]} are taken ({mine}), not the {WORDS[other]} ({theirs}): "
        f"--model.weights {other} takes those"
    )
