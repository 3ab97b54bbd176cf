"""``--print_completion SHELL``: what completes ``tome-lightning`` in a shell."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from tome_lightning.errors import UsageError
from tome_lightning.trainer.signals import leaving_at_ctrl_c

SHELLS = ("bash", "zsh", "tcsh")


def main(argv: list[str]) -> None:
    """Print a script that completes ``tome-lightning`` with the options of Lightning's verbs.

    Args:
        argv: One of `SHELLS`; bash if there is none.

    Raises:
        UsageError: It is another shell, or shtab is missing.
        SystemExit: With 0, once it is printed.
    """
    shell = argv[0] if argv else "bash"
    if shell not in SHELLS or find_spec("shtab") is None:
        fault = "needs shtab: pip install shtab" if shell in SHELLS else f"is one of {SHELLS}"
        raise UsageError(f"--print_completion SHELL {fault}")
    with leaving_at_ctrl_c():
        from jsonargparse import set_parsing_settings

        from tome_lightning.cli import ToMeCLI
    set_parsing_settings(add_print_completion_argument=True)
    sys.argv[0] = "tome-lightning"  # what is completed
    try:
        ToMeCLI([f"--print_completion=shtab-{shell}"])
    finally:
        set_parsing_settings(add_print_completion_argument=False)
