"""Whether this machine can do what it is asked to: what ``doctor`` looks at."""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.doctor.command import doctor, main
    from tome_lightning.commands.doctor.findings import Finding, Status, format_findings, tell
    from tome_lightning.commands.doctor.machine import check_machine
    from tome_lightning.commands.doctor.recipe import check_recipe

__all__ = [
    "Finding",
    "Status",
    "check_machine",
    "check_recipe",
    "doctor",
    "format_findings",
    "main",
    "tell",
]

__getattr__ = lazily(
    __name__,
    {
        "Finding": "tome_lightning.commands.doctor.findings",
        "Status": "tome_lightning.commands.doctor.findings",
        "check_machine": "tome_lightning.commands.doctor.machine",
        "check_recipe": "tome_lightning.commands.doctor.recipe",
        "doctor": "tome_lightning.commands.doctor.command",
        "format_findings": "tome_lightning.commands.doctor.findings",
        "main": "tome_lightning.commands.doctor.command",
        "tell": "tome_lightning.commands.doctor.findings",
    },
)
