"""The line that moves while a run trains: loss, r, samples a second, waiting for data, memory."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from tome_lightning.callbacks import ToMeCallback
from tome_lightning.trainer.meter import peak_memory_mib

REFRESH = 10  # steps: refreshing reads the loss, which waits for the device
READ = ("train/loss", "tome/r", "tome/samples_per_s")  # when the bar is refreshed


class RunBar(TQDMProgressBar):
    """Lightning's bar with short names; while training also the time spent waiting for data, and memory.

    A step's figures are read when the bar is refreshed, not at each batch: see `figures`.
    """

    reads_figures = True

    def __init__(self, refresh_rate: int = REFRESH, process_position: int = 0) -> None:
        super().__init__(refresh_rate, process_position)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """As Lightning's, for the end of the line."""
        shown: dict[str, Any] = dict(super().get_metrics(trainer, pl_module))
        shown.pop("v_num", None)
        known = trainer.callback_metrics
        shown |= {name: float(known[name]) for name in READ if name in known}
        shown = {_short(name): value for name, value in shown.items()}
        if isinstance(shown.get("r"), float):
            shown["r"] = f"{shown['r']:g}"
        callbacks: list[Any] = getattr(trainer, "callbacks", [])
        tome = [callback for callback in callbacks if isinstance(callback, ToMeCallback)]
        if not trainer.training or not tome or "loss" not in shown:
            return shown
        share = tome[0].meter.waiting_share()
        figures = {} if share is None else {"data wait": f"{share:.0%}"}
        figures["memory"] = f"{peak_memory_mib(pl_module.device) / 1024:.1f}G"
        ours = [name for name in ("loss", "r", "samples/s") if name in shown]
        return {name: shown.pop(name) for name in ours} | figures | shown


def _short(name: str) -> str:
    name = {"tome/samples_per_s": "samples/s"}.get(name, name)
    for group in ("train/", "val/", "test/", "tome/"):
        name = name.removeprefix(group)
    return name
