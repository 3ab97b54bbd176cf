"""A member of a tar file by its name alone, as a person types it."""

import os
import re
import tarfile

from datamodules.shards.member import TABLES, Member, MemberError, member

_NAMED = re.compile(r"(?s)(.+?\.(?:tar|parquet|arrow))::(.+)")


def placed(path: str) -> str:
    """The path of a member with its place, which `shard.tar::a/b.jpg` leaves out; any other as it is.

    Raises:
        OSError: There is no such tar file.
        MemberError: It holds nothing of that name, is no tar file, or is a table, whose samples
            need not have names.
    """
    named = _NAMED.fullmatch(path) if "::" in path and member(path) is None else None
    if named is None or os.path.isfile(path):
        return path
    shard, wanted = named[1], _plain(named[2])
    if shard.endswith(TABLES):
        raise MemberError(
            "a sample of a table is named with its place, as scan and predict print it"
        )
    first = ""
    try:
        with tarfile.open(shard, "r:") as tar:
            for entry in tar:
                if not entry.isreg() or entry.issparse():  # as in a data set of such shards
                    continue
                if _plain(entry.name) == wanted:
                    return Member(shard, entry.name, entry.offset_data, entry.size).path
                first = first or entry.name
    except tarfile.TarError as error:
        raise MemberError(f"{shard} cannot be read as a tar file: {error}") from None
    instead = f"its first is {first}" if first else "it is empty"
    raise MemberError(f"{shard} holds no {named[2]}; {instead}")


def _plain(name: str) -> str:
    """Tar files made with `tar -cf x.tar .` begin every name with `./`."""
    return name.removeprefix("./")
