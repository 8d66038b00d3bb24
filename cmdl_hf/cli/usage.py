"""What to type instead: the command line's own errors, with the cure."""

import re
from contextlib import suppress
from typing import Any, get_args

from cyclopts import App, ArgumentCollection
from cyclopts.exceptions import CoercionError, CycloptsError, MissingArgumentError, UnknownOptionError

from ..escaping import one_line

_EXAMPLES = {
    "--benchmark": "camvid",
    "--data-dir": "path/to/data",
    "--out": "outputs/NEW_FOLDER",
    "MODEL": "outputs/MY_RUN",
}
"""What a required option could be; others are named with what they take."""

_PLACES = ("--out", "--output-dir")
"""Where a command writes, by the option that it has."""


def explain_usage(error: CycloptsError) -> str:
    """Say in one line what is wrong with a command or a recipe, and what to type.

    Args:
        error (`CycloptsError`): What cyclopts raised.
    """
    argument = error.argument
    if argument is not None and isinstance(error, MissingArgumentError):
        text = _explain_missing(error.keyword or argument.name, argument, error.tokens_so_far)
    elif argument is not None and isinstance(error, CoercionError) and error.token is None and argument.tokens:
        source, values = argument.tokens[0].source, [token.value for token in argument.tokens]
        text = f"{source}: {_explain_count(argument.tokens[0].keyword or argument.name, argument, values)}"
    elif isinstance(error, UnknownOptionError) and (place := _find_place(error)):
        text = f"Unknown option: {error.token.keyword or error.token.value}. Did you mean {place}?"
    else:
        text = re.sub(r"(?<!\.)\.$", "", str(error))
    return one_line(f"{text}; {' '.join(['cmdl', *(error.command_chain or ())])} --help tells more")


def refuse_fractions(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse fractions where whole numbers are wanted; cyclopts rounds them, so that 1.5 would become 2.

    Raises:
        CoercionError: if there is one.
    """
    for argument in arguments:
        for token in argument.tokens if _is_whole(argument.hint) else ():
            with suppress(ValueError):
                if not float(token.value).is_integer():
                    raise CoercionError(argument=argument, token=token, target_type=int)


def _is_whole(hint: Any) -> bool:
    """Whether values of a type are whole numbers, or tuples of them."""
    kinds = [kind for kind in get_args(hint) if kind not in (type(None), ...)]
    return hint is int or (bool(kinds) and all(map(_is_whole, kinds)))


def is_about_file(error: CycloptsError) -> bool:
    """Whether a recipe is wrong, and not the command."""
    tokens = [getattr(error, "token", None), *(error.argument.tokens if error.argument is not None else ())]
    return any(token is not None and token.source not in ("", "cli") for token in tokens)


def _find_place(error: UnknownOptionError) -> str | None:
    """Find the option for the place to write to of the command that was given another command's."""
    given = (error.token.keyword or error.token.value).split("=")[0]
    if error.token.source != "cli" or not re.fullmatch(r"-o|--out(put)?([-_](dir|folder|file))?", given):
        return None
    names = {name for argument in error.argument_collection for name in argument.names}
    return next((place for place in _PLACES if place in names), None)


def _explain_missing(name: str, argument: Any, given: list[str]) -> str:
    if argument.token_count()[0] > 1:
        return _explain_count(name, argument, given)
    example = _EXAMPLES.get(name) or getattr(argument.hint, "__name__", "value").upper()
    return f"{name} is missing; add {f'{name} {example}' if name.startswith('-') else f'{name}, such as {example}'}"


def _explain_count(name: str, argument: Any, given: list[str]) -> str:
    """Explain an option of several values of which too few were given, or in another form."""
    count, _ = argument.token_count()
    values = re.split(r"[\s,x×]+", " ".join(given).strip("[]() "))
    values = values * count if len(values) == 1 else values
    is_yaml = name.startswith("[")
    example = f"{name.strip('[]')}: [{', '.join(values)}]" if is_yaml else f"{name} {' '.join(values)}"
    cure = f"such as {example}" if len(values) == count and all(values) else "with spaces between"
    return f"{name} takes {count} values, {cure}, found {' '.join(given) or 'none'}"
