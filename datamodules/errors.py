"""The one exception a user of the data modules sees."""


class DataError(ValueError):
    """A mistake in the data or its settings, told in one line: what, got, why, way out."""
