"""The table of commands and the one place where errors become a line and an exit code.

Knows what commands there are, not what they do. Imports nothing heavy: `--help` and completion come through here.
"""

from __future__ import annotations

import difflib
import os
import shlex
import signal
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.main import get_command

from .. import __version__
from ..config import read_user_options
from ..errors import IdeficsError, InternalError, UsageError, describe_problems
from .log import ask_to_report, list_trace
from .output import emit, say, say_error, use_utf8
from .signals import INTERRUPTED

COMMANDS = (
    *("caption", "vqa", "classify", "extract", "rate", "write", "run", "batch", "chat", "serve", "review"),
    *("eval", "calibrate", "merge", "plan", "convert", "find", "doctor", "bench", "models", "templates"),
)
"""Each is a module in commands/, with a function or a Typer app for it."""
HELP_OPTIONS = ["-h", "--help"]
VARIABLES = {f"IDEFICS_{name}_DIR" for name in ("CONFIG", "CACHE", "STATE", "RUNTIME")}
"""Variables that are read from the environment and are not options."""
MEANT = {
    **dict.fromkeys(("describe", "alt", "alt-text", "captions", "caption-image"), "caption"),
    **dict.fromkeys(("ask", "question", "answer"), "vqa"),
    **dict.fromkeys(("label", "labels", "tag", "categorize"), "classify"),
    **dict.fromkeys(("pull", "download", "install"), "models pull"),
    **{"list": "models list", "server": "serve", "version": "--version", "ocr": "run ocr"},
}
"""Words that new users try, and the command that does it."""
IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".heic"}


def _print_version(wanted: bool) -> None:
    if wanted:
        emit(f"idefics {__version__}")
        raise typer.Exit


def about(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself; `--version` acts in its callback."""


def open_app(names: Sequence[str] = COMMANDS) -> typer.Typer:
    """The program with only these commands: building all of them takes longer than showing one's help."""
    app = typer.Typer(
        name="idefics",
        help="Ask vision-language models about images. Results go to stdout, messages go to stderr.",
        epilog="Every option has an environment variable (--num-beams is IDEFICS_NUM_BEAMS) and a place in "
        "config.yaml.",
        context_settings={"help_option_names": HELP_OPTIONS},
        pretty_exceptions_enable=False,
    )
    app.callback()(about)
    for name in names:
        module = import_module(f".commands.{name}", __package__)
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command()(getattr(module, name))
    return app


def main() -> None:
    """The program `idefics`."""
    use_utf8()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: files are closed, exit code 130
    code = execute(sys.argv[1:])
    if code == INTERRUPTED:
        # Threads that still wait for the network would hold up an ordinary exit.
        os._exit(code)
    sys.exit(code)


def execute(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Errors end here as one line; bugs say where to report them."""
    try:
        path, content = read_user_options()
        is_alone = not content and bool(arguments) and arguments[0] in COMMANDS
        root = get_command(open_app(arguments[:1] if is_alone else COMMANDS))
        defaults = _set_all_defaults(root, path, content)
        _check_environment(root)
        _check_command(arguments)
        words = list(arguments) or ["--help"]
        if (shown := _find_help(root, words)) is not None:
            emit(shown)
            return 0
        code = root.main(words, "idefics", standalone_mode=False, default_map=defaults)
    except IdeficsError as error:
        say_error(str(error))
        return error.exit_code
    except typer.TyperException as error:
        say_error(_describe(error, path))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as ended:  # nobody reads the results any more, or SIGTERM
        code = ended.code
    except Exception as error:
        if "--verbose" in arguments:
            for line in list_trace(error):
                say(line)
        problem = str(InternalError(error))
        say_error(problem)
        ask_to_report(problem)
        return InternalError.exit_code
    return code if isinstance(code, int) else 0


def _find_help(root: Any, arguments: Sequence[str]) -> str | None:
    """The help of a command that is called with --help alone. Parsing the options would import pydantic."""
    *names, last = arguments
    if last not in HELP_OPTIONS:
        return None
    command, context = root, root.context_class(root, info_name="idefics", **root.context_settings)
    for name in names:
        command = getattr(command, "commands", {}).get(name)
        if command is None:
            return None
        context = command.context_class(command, info_name=name, parent=context, **command.context_settings)
    shown: str = command.get_help(context)
    return shown


def _check_environment(root: Any) -> None:
    """Warn of IDEFICS_* variables that nothing reads, and name the one that was probably meant."""
    ours = {name for name in os.environ if name.startswith("IDEFICS_")} - VARIABLES - set(_list_variables(root))
    if not ours:
        return
    known = VARIABLES | set(_list_variables(get_command(open_app())))
    for name in sorted(ours - known):
        near = difflib.get_close_matches(name, known, n=1)
        say(f"nothing reads {name}; {f'did you mean {near[0]}?' if near else 'see --help for the options'}")


def _list_variables(command: Any) -> Iterator[str]:
    yield from (one.envvar for one in command.params if isinstance(getattr(one, "envvar", None), str))
    for inner in getattr(command, "commands", {}).values():
        yield from _list_variables(inner)


def _check_command(arguments: Sequence[str]) -> None:
    """Raise UsageError if the first word is not a command but an image, or a word for a command."""
    first = arguments[0] if arguments else ""
    if not first or first.startswith("-") or first in COMMANDS:
        return
    given = shlex.join(arguments)
    if os.path.lexists(first) or os.path.splitext(first)[1].lower() in IMAGE_ENDINGS:
        raise UsageError(f"{first!r} is not a command", hint=f"write: idefics caption {given}")
    if (meant := MEANT.get(first.lower())) is not None:
        rest = " ".join(shlex.quote(one) for one in arguments[1:])
        raise UsageError(f"there is no command {first!r}", hint=f"write: idefics {meant} {rest}".rstrip())


def _describe(error: typer.TyperException, config_path: object) -> str:
    """A usage error in one line: what, from where if not from the command line, and which help to read."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    param = getattr(error, "param", None)
    name = getattr(param, "name", None)
    flag = max(getattr(param, "opts", [""]), key=len)
    cause: Any = error.__cause__
    if param is not None and hasattr(cause, "errors"):  # in pydantic's words
        message = describe_problems(cause, subject=flag).rstrip(".")
    elif message.startswith(told := f"Invalid value for '{flag}': "):
        message = f"{flag}: {message.removeprefix(told)}"
    if context is None:
        return message
    source = context.get_parameter_source(name) if name else None
    if source is not None and source.name == "DEFAULT_MAP":
        return f"{config_path}: {message} (it says {context.default_map[name]!r})"
    if source is not None and source.name == "ENVIRONMENT":
        return f"{error.param.envvar}: {message}"  # type: ignore[attr-defined]
    return f"{message}; see {context.command_path} --help"


def _set_all_defaults(root: Any, path: object, content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The user's config.yaml as defaults of each command's options.

    Options that may be given several times also learn that an environment variable separates them by line ends.
    """
    wanted = {key.replace("-", "_"): (key, value) for key, value in content.items()}
    known: set[str] = set()
    defaults = {name: _set_defaults(command, wanted, known, path) for name, command in root.commands.items()}
    if unknown := [key for key, _ in wanted.values() if key.replace("_", "-") not in known]:
        raise UsageError(f"{path}: there is no option {unknown[0]!r}", hint=_suggest(unknown[0], known))
    return defaults


def _suggest(key: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(key.replace("_", "-"), known, n=1)
    return f"did you mean {near[0]}?" if near else "keys are option names without the dashes"


def _set_defaults(command: Any, wanted: dict[str, tuple[str, Any]], known: set[str], path: object) -> dict[str, Any]:
    """The defaults of one command and of its subcommands; `known` collects the names of options."""
    inner = getattr(command, "commands", {})
    defaults = {name: _set_defaults(one, wanted, known, path) for name, one in inner.items()}
    for option in (parameter for parameter in command.params if parameter.param_type_name == "option"):
        if option.multiple:
            option.envvar_list_splitter = "\n"
        if option.envvar is None:  # neither the environment nor a file has it
            continue
        flag = max(option.opts, key=len).removeprefix("--")
        known.add(flag)
        if flag.replace("-", "_") in wanted:
            defaults[option.name] = _default(option, *wanted[flag.replace("-", "_")], path)
    return defaults


def _default(option: Any, key: str, value: Any, path: object) -> Any:
    values = value if isinstance(value, list) else [value]
    fits = isinstance(value, bool) if option.is_bool_flag else not any(isinstance(one, bool) for one in values)
    if value is None or not fits or any(isinstance(one, list | dict) for one in values):
        raise UsageError(f"{path}: {key}: {value!r} is not a value for --{key.replace('_', '-')}")
    if option.multiple:
        return [str(one) for one in values]
    if isinstance(value, list):
        raise UsageError(f"{path}: {key} takes one value, not a list")
    return value
