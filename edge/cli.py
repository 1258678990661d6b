"""What commands share, and the commands of the store's keys. Parts are imported only when asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edge.store.keys import Passphrase

ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="HOMETWIN_CONFIG", help="The hub's TOML file.", show_envvar=True),
]
DEFAULT_CONFIG = Path("/etc/hometwin/hub.toml")
KeyFile = Annotated[Path, typer.Argument(help="The key file.")]

keys = typer.Typer(help="Make and change the keys of a hub's store.", no_args_is_help=True)


def say(lines: list[str]) -> None:
    """Print what a command answers."""
    for line in lines:
        typer.echo(line)


@keys.command("new")
def keys_new(file: KeyFile) -> None:
    """Make a new key; an existing file is never replaced."""
    from edge.store.keys import create_key

    create_key(file)
    typer.echo(f"made {file} (keep a copy: without it the store cannot be read)")


@keys.command("check")
def keys_check(file: KeyFile) -> None:
    """Say whether a file is a usable key of a store: 32 bytes, or 64 hexadecimal digits."""
    from core.errors import InputError
    from edge.store.keys import load_key

    if len(set(load_key(file))) == 1:
        raise InputError("one byte over and over is no key: anybody tries that first", where=str(file))
    typer.echo(f"{file} is a usable key")


@keys.command("list")
def keys_list(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Show what opens the store: keys, passphrases, data keys.

    Where no hub runs this opens the store as the hub does at its start: a damaged one is repaired and set aside.
    """
    from edge.config import load_config
    from edge.keys_command import overview_lines

    say(overview_lines(load_config(config)))


@keys.command("rotate")
def keys_rotate(
    to: Annotated[
        Path | None, typer.Option(help="Put the new key there instead of in the key file's place.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Put a new key in the key file's place; the old one opens nothing any more. The hub stays up."""
    from edge.config import load_config
    from edge.keys_command import rotate

    say(rotate(load_config(config), to))


@keys.command("retire")
def keys_retire(
    file: Annotated[Path | None, typer.Argument(help="The key that stays.")] = None,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for the one that stays.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Let only this key (or only this passphrase, of all passphrases) open the store from now on."""
    from core.errors import InputError
    from edge.config import load_config
    from edge.keys_command import retire
    from edge.store.keys import load_key

    if passphrase == (file is not None):
        raise InputError("name the key file that stays, or --passphrase", where="keys retire")
    keep = _ask_words("Passphrase that stays") if file is None else load_key(file, {})
    say(retire(load_config(config), keep))


@keys.command("rotate-data")
def keys_rotate_data(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Begin with a new data key; the hub seals everything anew beside its work."""
    from edge.config import load_config
    from edge.keys_command import rotate_data

    say(rotate_data(load_config(config)))


@keys.command("passphrase")
def keys_passphrase(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Add a passphrase as a second way in, for the day when the key file is lost."""
    from edge.config import load_config
    from edge.keys_command import add_passphrase

    say(add_passphrase(load_config(config), _ask_words("New passphrase", twice=True)))


@keys.command("recover")
def keys_recover(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Make a new key file with the passphrase, where no hub runs (one that runs needs none: keys rotate --to)."""
    from edge.config import load_config
    from edge.keys_command import recover

    say(recover(load_config(config), _ask_words("Passphrase")))


def _ask_words(prompt: str, twice: bool = False) -> Passphrase:
    """A passphrase from the terminal, unseen; from a pipe its first line. Never from the command line."""
    from core.errors import InputError
    from edge.store.keys import Passphrase

    if not sys.stdin.isatty():
        return Passphrase.from_bytes(sys.stdin.buffer.readline())
    try:
        return Passphrase(typer.prompt(prompt, hide_input=True, confirmation_prompt=twice))
    except UnicodeDecodeError:
        raise InputError("not in the terminal's encoding", where="passphrase", mend="check LANG") from None
