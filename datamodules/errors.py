"""The exceptions a user of the data modules sees."""


class DataError(ValueError):
    """A mistake in the data or its settings, in one line: what, got, why, way out."""


class WorkerError(RuntimeError):
    """A loader process that was killed or has no memory left, in one line with the ways out."""


def require(name: str, value: object, fine: bool, expected: str) -> None:
    """Raise a DataError unless `fine`: "`name` must be `expected`, got `value`"."""
    if not fine:
        raise DataError(f"{name} must be {expected}, got {value!r}")
