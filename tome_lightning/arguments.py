"""The command line as the user types it, turned into what LightningCLI parses."""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from inspect import signature
from operator import or_
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_args

import yaml

import datamodules
import recipes
from checkpoints.bounds import check_values
from tome_lightning.errors import UsageError as UsageError  # offered here, too

MAX_YAML = 2**20  # characters of a recipe


class VerbParser(argparse.ArgumentParser):
    """Parses the options of a verb that is not Lightning's; mistakes are a `UsageError`.

    Options have to be written out, with dashes or underscores.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print after its usage, with the nearest options."""
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown:
            word = unknown[1].partition("=")[0]
            hint = nearest(word, self._all_options()) if word.startswith("-") else ""
            raise UsageError(f"Unknown option {word!r}. {hint or 'See ' + self.prog + ' --help.'}")
        wrong = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if wrong:
            known = re.findall(r"[\w.-]+", wrong[2])
            hint = nearest(wrong[1], known) or f"One of: {', '.join(known)}."
            raise UsageError(f"{message.partition(':')[0]}: no {wrong[1]!r}. {hint}")
        raise UsageError(f"{message[:1].upper()}{message[1:]}. See {self.prog} --help.")

    def parse_own(self, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Parse this verb's options; returns all other words as they are: those of a recipe's run.

        A word that is no option goes with the option before it. ``--model X`` may be the verb's where
        ``--model.KEY X`` is the recipe's.
        """
        own, others = list[str](), list[str]()
        target = own
        for word in argv:
            if word.startswith("--") or word in ("-c", "-h"):
                target = own if self._own_name(word.partition("=")[0]) else others
            target.append(word)
        return self.parse_args(own), others

    def _own_name(self, option: str) -> str | None:
        """An option as this parser writes it, with underscores or dashes; None if it is another's."""
        names = (option, option.replace("_", "-"))
        return next((name for name in names if name in self._option_string_actions), None)

    def _all_options(self) -> list[str]:
        found = list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    found += parser._option_string_actions
        return found

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; ``--img_size`` is ``--img-size``."""
        words = []
        for word in args or []:
            name, given, value = str(word).partition("=")
            words.append((self._own_name(name) or name) + given + value)
        return super().parse_known_args(words, namespace)


def try_int_before_float(parser: argparse.ArgumentParser) -> None:
    """Have the parser of Lightning's options read 1 as one batch, not as 1.0, the whole data set.

    It tries the members of a union in their order, and Python keeps one order for all that write the same
    union: after ``import torchaudio``, ``Union[int, float]`` may be ``Union[float, int]``.
    """
    actions: list[Any] = parser._actions
    for action in actions:
        members = get_args(getattr(action, "_typehint", None))
        if int in members and float in members and members.index(float) < members.index(int):
            ordered = sorted(members, key=lambda member: (member is not int, member is float))
            action._typehint = reduce(or_, ordered)


class Arguments(NamedTuple):
    """A command line, sorted.

    Attributes:
        argv: What LightningCLI parses; recipes have become ``--config`` files.
        recipe: Name of the last recipe given, for the run directory.
        ckpt_path: The checkpoint to resume, validate, test or predict from.
        resume: What ``--resume`` named: auto, a run directory or a checkpoint.
        run_dir: The run directory, if one was given.
    """

    argv: list[str]
    recipe: str | None
    ckpt_path: Path | None
    resume: str | None = None
    run_dir: Path | None = None


def read_arguments(argv: list[str], verb: str = "fit") -> Arguments:
    """Sort the arguments after the verb.

    ``--recipe NAME`` and ``--recipe FILE`` become ``--config FILE``; these come first, in their order,
    so that every option given on the command line overrules them, wherever it stands. Long options
    may be written with dashes; ``--weights_only`` is refused, because checkpoints are always loaded
    safely. ``--init_from X``, the weights to start from, becomes ``--model.checkpoint X``.

    Raises:
        UsageError: For a refused option, a checkpoint that is not there, or both a run to go on with
            and weights to start another from.
        recipes.RecipeError: For an unknown recipe.
    """
    files: list[str] = []
    out: list[str] = []
    recipe = ckpt_path = resume = run_dir = None
    given_names: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "-c":
            files += ["--config", _next(words, "-c needs a file")]
            continue
        if not re.match(r"--[A-Za-z]", word):
            out.append(word)
            continue
        name, given, value = word.partition("=")
        name = "--" + name[2:].replace("-", "_")
        given_names.append(name)
        if name == "--recipe":
            value = value if given else _next(words, "--recipe needs a name or a file")
            path = recipes.path(value)
            read_yaml(path)
            recipe = path.stem
            files += ["--config", str(path)]
        elif name == "--config":
            files += ["--config", value if given else _next(words, "--config needs a file")]
        elif name == "--ckpt_path":
            value = value if given else _next(words, "--ckpt_path needs a file")
            if value != "null":
                ckpt_path = _existing(Path(value))
                out += ["--ckpt_path", str(ckpt_path)]
        elif name == "--resume":
            resume = (
                value if given else _next(words, "--resume needs auto, a run directory or a file")
            )
        elif name == "--init_from":
            value = value if given else _next(words, "--init_from needs a name or a file")
            out.append(f"--model.checkpoint={value}")
        elif name == "--run_dir":
            value = value if given else _next(words, "--run_dir needs a folder")
            run_dir = None if value == "null" else Path(value)
            out.append(f"--run_dir={value}")
        elif name == "--weights_only":
            raise UsageError(
                "--weights_only is refused: a checkpoint can run any code it likes when it is loaded "
                "without it, so checkpoints are always loaded with weights_only=True. Leave it out."
            )
        else:
            out.append(name + given + value)
    _check_starts(verb, given_names)
    return Arguments([*files, *out], recipe, ckpt_path, resume, run_dir)


def _check_starts(verb: str, given: list[str]) -> None:
    """Refuse to go on with a run and to start another at once."""
    for name, instead in (("--resume", "--ckpt_path"), ("--init_from", "--model.checkpoint")):
        if name in given and verb != "fit":
            raise UsageError(f"{name} is for fit; for {verb} use {instead} FILE.")
    ways = [name for name in ("--resume", "--ckpt_path", "--init_from") if name in given]
    if len(ways) > 1 and verb == "fit":
        raise UsageError(
            f"{ways[0]} and {ways[1]} exclude each other: --resume (or --ckpt_path) goes on with a run, "
            "its optimizer and its data where they stopped; --init_from starts a new run from weights. "
            "For a job that is to start from weights and resume itself, give --model.checkpoint and "
            "--resume auto."
        )


def nearest(word: str, known: Iterable[str]) -> str:
    """``Nearest: a, b.`` for a misspelt word, or an empty string."""
    close = difflib.get_close_matches(word, list(dict.fromkeys(known)), n=3, cutoff=0.5)
    return f"Nearest: {', '.join(close)}." if close else ""


def options_of(group: str, classes: Iterable[type]) -> set[str]:
    """``data.root`` and so on: options of classes of which a recipe chooses one are no parser actions."""
    return {f"{group}.{name}" for cls in classes for name in signature(cls).parameters}


def data_options() -> set[str]:
    """The options of our data sets."""
    return {f"data.{name}" for cls in datamodules.data_sets() for name in cls.options()}


def options_in(parser: argparse.ArgumentParser) -> set[str]:
    """The long options of a parser, without dashes; not those that add to a list (``--x+``)."""
    options = (option for action in parser._actions for option in action.option_strings)
    return {option.removeprefix("--") for option in options if not option.endswith("+")}


def split_part(
    words: Iterable[str], part: str
) -> tuple[list[str], list[str], list[dict[str, Any]]]:
    """The words about one part of a run: ``model`` or ``data``.

    Args:
        words: What `read_arguments` leaves of a command line.
        part: Its name.

    Returns:
        Those about it, with that part of each recipe; those about others; the recipes whole.
    """
    taken, others, whole = list[str](), list[str](), list[dict[str, Any]]()
    target = taken
    words = iter(words)
    for word in words:
        if word == "--config":
            whole.append(read_yaml(Path(next(words))))
            own = {k: v for k, v in whole[-1].items() if str(k).split(".")[0] == part}
            taken += ["--config", json.dumps(own)] if own else []
            continue
        if word.startswith("--"):
            target = taken if re.split("[.=]", word[2:])[0] == part else others
        target.append(word)
    return taken, others, whole


def part_parser(**settings: Any) -> Any:
    """A parser of jsonargparse for `parse_part`, to which the options of a part are added."""
    from lightning.pytorch.cli import LightningArgumentParser

    parser = LightningArgumentParser(exit_on_error=False, allow_abbrev=False, **settings)
    parser.add_argument("--config", action="config")
    return parser


def parse_part(parser: Any, words: list[str], known: Iterable[str] = ()) -> Any:
    """Parse the words of a recipe's part by a parser of jsonargparse.

    Args:
        parser: From `part_parser`.
        words: Without those of other parts.
        known: Options beside the parser's own, for the nearest ones to a misspelt one.

    Raises:
        UsageError: In one line, for what the parser refuses.
    """
    from jsonargparse import ArgumentError

    try:
        return parser.parse_args(words)
    except ArgumentError as error:
        everything = options_in(parser).union(known)
        raise UsageError(explain_parse_error(str(error), everything)) from error


def explain_parse_error(message: str, known: Iterable[str]) -> str:
    """One line for what the parser found wrong, with the nearest option for a misspelt one."""
    known = sorted(set(known))
    line = " ".join(message.split())
    unknown = re.search(r"[Uu]nrecognized arguments: (\S+)", line) or re.search(
        r"""(?:Key|Option|Group|key|option) ['"]([\w.]+)['"] (?:is )?(?:not expected|not accepted)"""
        r"""|(?:No action for|does not have|Unexpected) (?:key )?['"]([\w.]+)['"]""",
        line,
    )
    if unknown:
        word = next(group for group in unknown.groups() if group).removeprefix("--").split("=")[0]
        hint = _nearest_option(word, known)
        return f"Unknown option {word!r}. {hint or 'See --help and --print_config.'}"
    value = re.search(
        r'[Kk]ey "([\w.]+)": (?:(?:Does not validate.*?)?Problem with given class_path \S+ '
        r'Parser key "([\w.]+)": )?(?:Does not validate.*?Subtypes: \[(.*?)\] Errors:.*?'
        r"Given value: |Expected an? (.*?)\. Got value: )(.*?)"
        r"(?: - Expected an? .*)?$",
        line,
    )
    if value:
        outer, inner, kinds, kind, given = value.groups()
        kinds = re.sub(r"<class '([\w.]+)'>|typing\.Literal\[(.*?)\]", r"\1\2", kinds or kind)
        name = f"{outer}.{inner}" if inner else outer
        must = "is one of" if "," in kinds else "must be"
        return f"{name} {must} {kinds.replace('NoneType', 'null')}, got {given!r}."
    return line


def _nearest_option(word: str, known: list[str]) -> str:
    """Nearest options, first among those of the same group, where only the last part is wrong."""
    group = word.rpartition(".")[0]
    if not group:  # the parser says what is wrong inside of data or model without saying where
        last = {name.rpartition(".")[2]: name for name in reversed(known)}
        close = difflib.get_close_matches(word, last, n=3, cutoff=0.6)
        return f"Nearest: {', '.join(last[name] for name in close)}." if close else ""
    same = [name for name in known if name.rpartition(".")[0] == group]
    return nearest(word, same) or nearest(word, known)


def _next(words: Iterable[str], complaint: str) -> str:
    for word in words:
        return word
    raise UsageError(complaint + ".")


def parse_yaml(text: str) -> Any:
    """The values of a small YAML file, whoever wrote it.

    Aliases are refused: a few lines of them stand for more values than fit into the memory.

    Raises:
        yaml.YAMLError: It is no YAML, or has aliases.
        ValueError: It is too long, or its values are too many or too deep.
    """
    if len(text) > MAX_YAML:
        raise ValueError(f"it has {len(text):,} characters, more than {MAX_YAML:,}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is many times faster
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                where = event.start_mark.line + 1
                raise ValueError(
                    f"it has an alias (*{event.anchor}, line {where}), which is not followed: write the "
                    "value out"
                )
        content = yaml.load(text, Loader=loader)
    except RecursionError:
        raise ValueError("its values lie too deep in one another") from None
    check_values(content)
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """The options in a recipe: the parser would say what is wrong with one, but not in which file.

    Raises:
        UsageError: The file cannot be read, is not YAML, or holds something else than options.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(
            f"The recipe {path} is not YAML: {' '.join(str(error).split())}."
        ) from error
    if not isinstance(content, dict):
        raise UsageError(
            f"The recipe {path} holds no options but {type(content).__name__}: {str(content)[:80]!r}. "
            "See a shipped one: python -m tome_lightning fit --recipe quickstart --print_config"
        )
    return content


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by their dotted names, as a command line has them: without ``init_args``."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix if key == "init_args" and prefix else f"{prefix}.{key}".removeprefix(".")
        if isinstance(value, dict) and value:
            found |= flat(value, name)
        else:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _existing(path: Path) -> Path:
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "no file"
        raise UsageError(
            f"--ckpt_path {path} is {kind}. Give a run's checkpoint, e.g. "
            "runs/quickstart/0/checkpoints/best.ckpt; weights to start from go to --model.checkpoint."
        )
    return path
