"""Data without videos for scan; on the path of the processes that a scan starts, hence no package."""

import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.file_check import FileCheck

if TYPE_CHECKING:
    from datamodules.filelist import FileList

GOOD = {"frames": 60, "fps": 30.0, "height": 256, "width": 340}


@dataclass
class Check(FileCheck):
    """Does what a file's name says, and writes down each call with its process."""

    log: Path
    decoder: str = "stub"
    quick: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        return {"decoder": self.decoder, "quick": self.quick}

    def summary(self, facts: Any) -> dict[str, Any]:
        return {"good": len(facts)}

    def tell(self, content: Any) -> list[str]:
        return [f"good: {content['good']}"]

    def __call__(self, path: str) -> dict[str, float]:
        name = Path(path).name
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {name}\n")
        if "bad" in name:
            raise ValueError(f"{name} is\nbad")
        if "late" in name:
            raise TimeoutError("gave up")
        if "stop" in name:
            raise KeyboardInterrupt
        if "segfault" in name:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "exit" in name:
            os._exit(7)
        if "once" in name and self.calls().count(name) == 1:
            os._exit(7)
        if "slow" in name:
            time.sleep(0.1)
        return GOOD

    def calls(self) -> list[str]:
        return [line.split()[1] for line in self.log.read_text().splitlines()]


@dataclass
class Data:
    """What scan needs of a data module: lists of two classes in turn, and the check above."""

    root: str
    lists: dict[str, list[str]]
    exclude: str | None = None
    decoder: str = "stub"
    gone: dict[str, list[str]] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=lambda: ["ant", "bee"])

    @property
    def check(self) -> Check:
        return Check(Path(self.root, "calls.log"), self.decoder)

    def prepare_data(self) -> None:
        Path(self.root, "prepared").touch()

    def files(self, split: str) -> "FileList":
        from datamodules.filelist import FileList  # imports torch: not in every process

        names = self.lists[split]
        return FileList(names, [i % 2 for i in range(len(names))])

    def file_check(self, quick: bool = False) -> Check:
        return replace(self.check, quick=quick)

    def missing(self, split: str) -> list[str]:
        return self.gone.get(split, [])
