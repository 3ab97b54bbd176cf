"""A converter for processes that start anew; on their path, hence in no package."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass
class Name:
    """The name of a file for its content; what it says of itself is done."""

    settings: ClassVar[dict[str, Any]] = {}
    words: ClassVar[str] = ""

    def __call__(self, path: str) -> dict[str, Any]:
        name = Path(path).name
        if "slow" in name:
            time.sleep(0.3)
        if "crash" in name:
            os._exit(7)
        return {"content": name.encode(), "ending": ""}


def images(root: Path) -> Any:
    from datamodules import ImageNet  # imports torch: not in every process

    return ImageNet(str(root))
