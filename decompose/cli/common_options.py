"""Options that every command has: ``--config``, ``--json`` and ``--quiet``."""

from __future__ import annotations

import copy
import inspect
import tomllib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer

from decompose.cli.outputs import output_mode
from decompose.utils.errors import DecomposeError, reason
from decompose.utils.progress import quiet_progress

Command = TypeVar("Command", bound=Callable[..., None])

_PANEL = "Of every command"


def with_common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that every command has.

    Args:
        command: a function as Typer takes it; it sees nothing of them.
    """
    signature = inspect.signature(command, eval_str=True)
    common = inspect.signature(_common, eval_str=True)

    @wraps(command)
    def run(config: Path | None, as_json: bool, quiet: bool, **options: Any) -> None:
        with ExitStack() as stack:
            stack.enter_context(output_mode(as_json=as_json, quiet=quiet))
            if quiet:
                stack.enter_context(quiet_progress())
            command(**options)

    parameters = [
        each.replace(kind=each.KEYWORD_ONLY)
        for each in (*signature.parameters.values(), *common.parameters.values())
    ]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


def with_panels(panels: Mapping[str, str]) -> Callable[[Command], Command]:
    """Group a command's options in its help.

    Args:
        panels: names of parameters, separated by spaces, by the title of their group.
    """
    titles = {name: title for title, names in panels.items() for name in names.split()}

    def grouped(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        parameters = []
        for parameter in signature.parameters.values():
            if parameter.name in titles:
                kind, info = get_args(parameter.annotation)
                info = copy.copy(info)
                info.rich_help_panel = titles[parameter.name]
                parameter = parameter.replace(annotation=Annotated[kind, info])
            # By keyword alone, so that a required option may follow an optional one.
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
        order = list(panels)
        parameters.sort(
            key=lambda each: order.index(titles[each.name]) if each.name in titles else -1
        )
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return grouped


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take a TOML file's values as defaults of the options, behind those of the command line."""
    if path is None:
        return None
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DecomposeError(f"{path}: cannot be read: {reason(error)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DecomposeError(f"{path}: is not TOML: {error}") from None
    parameters = {
        _name_of(parameter): parameter
        for parameter in context.command.params
        if parameter.name not in ("config", "help")
    }
    defaults: dict[str, Any] = {}
    for key, value in given.items():
        name = key.replace("_", "-")
        if name not in parameters:
            nearest = get_close_matches(name, parameters, 1, 0)[0]
            raise DecomposeError(f"{path}: there is no option {key!r}; did you mean {nearest}?")
        parameter = parameters[name]
        defaults[str(parameter.name)] = _as_typed(path, key, value, parameter)
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _name_of(parameter: Any) -> str:
    """An option's name as on the command line, without the dashes; an argument's own name."""
    long = [name for name in parameter.opts if name.startswith("--")]
    return (long[0] if long else str(parameter.name)).removeprefix("--")


def _as_typed(path: Path, key: str, value: Any, parameter: Any) -> Any:
    """A value of a TOML file as text of the command line."""
    is_list = bool(getattr(parameter, "multiple", False)) or parameter.nargs == -1
    if isinstance(value, list) and not is_list:
        raise DecomposeError(f"{path}: {key} takes one value, not a list")
    values = value if isinstance(value, list) else [value]
    is_flag = bool(getattr(parameter, "is_flag", False))
    if any(isinstance(each, dict | list) or isinstance(each, bool) != is_flag for each in values):
        wanted = "true or false" if is_flag else "a number or a text"
        raise DecomposeError(f"{path}: {key} = {value!r}: write {wanted}")
    typed = [each if is_flag else str(each) for each in values]
    return typed if is_list else typed[0]


def _common(
    config: Annotated[
        Path | None,
        typer.Option(
            help="Read options from this TOML file, each by its name; the command line wins.",
            is_eager=True,
            callback=_read_config,
            rich_help_panel=_PANEL,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON for machines, not tables.", rich_help_panel=_PANEL),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Print errors and warnings only.", rich_help_panel=_PANEL
        ),
    ] = False,
) -> None:
    """The options; their values are read by ``with_common_options``."""
