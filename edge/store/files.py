"""Whether a file is there, when the system may refuse to say."""

from __future__ import annotations

from pathlib import Path

from core.errors import InputError


def is_there(path: Path) -> bool:
    """Whether something is at ``path``; InputError where Path.exists lets the system's refusal through."""
    try:
        return path.exists()
    except OSError as err:
        raise unusable(path, err) from None


def unusable(path: Path, err: OSError) -> InputError:
    """What the system says of ``path``, with the usual cure."""
    mend = "become its owner, or use sudo" if isinstance(err, PermissionError) else ""
    return InputError(f"cannot be used: {err.strerror}", where=str(path), mend=mend)
