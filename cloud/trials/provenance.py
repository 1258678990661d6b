"""What a trial's figures came from: plan, code, versions, machine. Two runs with equal keys give equal numbers."""

from __future__ import annotations

import hashlib
import platform
import struct
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import llvmlite.binding
import msgspec

from cloud.trials.plan import Plan
from cloud.trials.simulate import Row
from core.messages import Prior

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("hometwin", "numpy", "numba", "llvmlite", "scipy", "dask", "distributed", "msgspec")


class Provenance(msgspec.Struct, frozen=True):
    """``key`` covers all that may change a number: chunks with another key are never mixed in."""

    key: str
    plan_sha256: str
    prior_sha256: str  # empty: the published table
    code_sha256: str
    versions: dict[str, str]
    machine: str


def gather(plan: Plan, plan_bytes: bytes, prior: Prior | None) -> Provenance:
    """Hashes of the inputs and of the sources that compute, and the versions they stand on."""
    prior_bytes = b"" if prior is None else msgspec.json.encode(prior)
    code = code_digest()
    versions = {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}
    machine = f"{platform.system()} {platform.machine()}, {llvmlite.binding.get_host_cpu_name()}"
    # What the plan says, not how it is laid out: a comment added to the file makes it no other trial.
    parts = (msgspec.json.encode(plan), prior_bytes, code.encode(), repr(sorted(versions.items())), machine)
    key = hashlib.sha256(b"\0".join(part if isinstance(part, bytes) else part.encode() for part in parts))
    return Provenance(
        key.hexdigest(),
        hashlib.sha256(plan_bytes).hexdigest(),
        hashlib.sha256(prior_bytes).hexdigest() if prior_bytes else "",
        code,
        versions,
        machine,
    )


def code_digest() -> str:
    """SHA-256 over the sources of ``core`` and of this package, names and contents in order."""
    digest = hashlib.sha256()
    for folder in (ROOT / "core", ROOT / "cloud" / "trials"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def result_digest(rows: Iterable[Row]) -> str:
    """SHA-256 over every number of the result, bit by bit, in order of person and arm."""
    digest = hashlib.sha256()
    for row in sorted(rows, key=lambda r: (r.person, r.arm)):
        digest.update(struct.pack("<qq", row.person, row.arm))
        digest.update(struct.pack(f"<{len(row.values)}d", *row.values))
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
