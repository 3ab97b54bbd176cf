"""The one error of this package."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. One line: what, got, why, and the way out."""
