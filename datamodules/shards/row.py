"""What an index says of one sample of a shard, and what it is asked for."""

from typing import NamedTuple

Label = int | str  # a class index, or a class name or label id


class Row(NamedTuple):
    """A sample of a shard.

    Attributes:
        path: Path of its member, see `member`, relative to the folder of the data set.
        labels: Its labels; none where the shard has none.
    """

    path: str
    labels: tuple[Label, ...]


class Wanted(NamedTuple):
    """What of a shard is wanted.

    Attributes:
        what: What messages call it: images, videos or sounds.
        feature: What `datasets` calls such a column: Image, Video or Audio.
        extensions: Endings of such files, in lower case.
        content: Column of a table, or ending in a tar, that holds it; None for the one there is.
        label: Column of a table, or field of a tar's JSON, that holds the labels; None for the usual.
    """

    what: str
    feature: str
    extensions: tuple[str, ...]
    content: str | None = None
    label: str | None = None
