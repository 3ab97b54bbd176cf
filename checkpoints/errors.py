"""The one error of this package, and others' in few words."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. One line: what, got, why, and the way out."""


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
