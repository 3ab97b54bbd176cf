"""What a user did wrong, told in one line: what, got, why and the way out."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake that the user can mend: a command prints the message as one line and exits with 2.

    `recipes`, `checkpoints`, `datamodules` and `tome` do not know this package and have errors of their
    own, which count as well: see `run.failures`.

    Attributes:
        of_all: Whether every process of a run raises it alike; then the first one alone tells it.
    """

    of_all = False


class UsageError(UserError):
    """A command line that cannot be followed."""
