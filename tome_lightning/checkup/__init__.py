"""Whether this machine can do what it is asked to: what ``doctor`` looks at."""

from tome_lightning.checkup.findings import Finding, Status, tell
from tome_lightning.checkup.machine import check_machine
from tome_lightning.checkup.recipe import check_recipe

__all__ = ["Finding", "Status", "check_machine", "check_recipe", "tell"]
