"""What the configurations of hub and cloud have in common: TOML that is refused in one line, and texts fit for use."""

from __future__ import annotations

import tomllib
from typing import Annotated, Any

import msgspec

from core.errors import ConfigError

# A path, name or address: no control characters, which no system call takes and no line of an error should hold.
Text = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]*$")]


def parse_toml(data: bytes, where: str) -> dict[str, Any]:
    """The TOML document in ``data``; ConfigError names ``where``, with line and column when there are some."""
    try:
        return tomllib.loads(data.decode("utf-8"))
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"not valid TOML: {err}", where=where, mend="mend that line") from None
    except UnicodeDecodeError:
        raise ConfigError("is not UTF-8 text", where=where, mend="save it as UTF-8") from None
    except ValueError:  # Python converts no integer of more than 4300 digits
        raise ConfigError("holds a number with too many digits", where=where, mend="mend it") from None
    except RecursionError:
        raise ConfigError("nested too deeply", where=where, mend="see docs/configuration.md") from None
