"""Whether this machine can do what it is asked to: what ``doctor`` looks at."""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.doctor.command import doctor as doctor
    from tome_lightning.commands.doctor.command import main as main
    from tome_lightning.commands.doctor.findings import Finding as Finding
    from tome_lightning.commands.doctor.findings import Status as Status
    from tome_lightning.commands.doctor.findings import format_findings as format_findings
    from tome_lightning.commands.doctor.findings import tell as tell
    from tome_lightning.commands.doctor.machine import check_machine as check_machine
    from tome_lightning.commands.doctor.recipe import check_recipe as check_recipe

__getattr__, __all__ = lazily(
    __name__,
    {
        ".findings": "Finding Status format_findings tell",
        ".machine": "check_machine",
        ".recipe": "check_recipe",
        ".command": "doctor main",
    },
)
