"""stand-in until the helper's"""

import re
from pathlib import Path

from datamodules.shards.member import SHARDS


def splits(folder: Path, config: str | None = None) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for place in (folder, folder / "data"):
        if place.is_dir():
            for path in sorted(place.iterdir()):
                if path.suffix in SHARDS:
                    for split, words in (
                        ("train", "train|training"),
                        ("val", "val|validation|valid|dev"),
                        ("test", "test|eval"),
                    ):
                        if re.search(rf"(^|[-_. ])({words})([-_. ]|$)", path.stem):
                            found.setdefault(split, []).append(path)
                            break
    return found
