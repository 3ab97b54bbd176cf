"""What became of every name when a checkpoint was loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .layout import some


@dataclass(frozen=True)
class LoadReport:
    """What a load did.

    `matched` (the file's value), `reshaped` (made of the file's values in the model's shape: a
    position table resampled or summed, an inflated kernel) and `new` (not in the file, the
    model's own value stays) are names of the model's state dict: disjoint, together all of them.
    `notes` says of each reshaped name what was done. `dropped` are names of the file (as converted
    to timm's) that were not used. Prints as a short table.
    """

    source: str
    family: str
    kind: str
    matched: tuple[str, ...]
    new: tuple[str, ...]
    reshaped: tuple[str, ...]
    dropped: tuple[str, ...]
    notes: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.family}, {self.kind}", f"  matched  {len(self.matched):4d}"]
        for what in ("new", "reshaped", "dropped"):
            names: tuple[str, ...] = getattr(self, what)
            shown = f"  {some(names, few=4)}" if names else ""
            lines.append(f"  {what:<8} {len(names):4d}{shown}")
            lines += [f"    {name}: {self.notes[name]}" for name in names if name in self.notes]
        return "\n".join(lines)
