"""Where a sample of a shard lies: what `member` names, and readers of tar files and tables need."""

from typing import NamedTuple
from urllib.parse import unquote


class MemberError(ValueError):
    """A member that is not where the index of its shard says."""


class Member(NamedTuple):
    """A place in a shard.

    Attributes:
        shard: Path of the shard.
        name: Name of the member in a tar file; in a table `column/name`.
        first: Offset of its bytes; in a table the group of rows (Parquet) or the batch (Arrow).
        second: Number of its bytes; in a table the row in that group.
    """

    shard: str
    name: str
    first: int
    second: int

    @property
    def path(self) -> str:
        """How a list of files names it."""
        return f"{self.shard}::{self.name}@{self.first}+{self.second}"

    @property
    def column(self) -> str:
        """The column of a table."""
        return unquote(self.name.partition("/")[0])
