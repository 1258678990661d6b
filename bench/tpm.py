"""The store's key sealed to a TPM, for real: the installed hub in a virtual machine with a software TPM (swtpm).

Not a measurement of speed but of truth: the commands of docs/configuration.md ("A key sealed to the machine") are run
as they stand there, by root, with the units of systemd/. Then the same disk is started with the same TPM, with another
one and with none. Needs root and the packages that it names; nothing is installed. HOMETWIN_GUEST names a folder where
the guest's Debian is kept for the next run.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import Final

from bench.guest import ROOT, accelerator, boot, build, check_host, flatten, overlay
from bench.report import Figure, Section, Table
from core.errors import EnvironmentMissing

WORDS: Final = "five words that nobody says"
GRAMS: Final = "45"
HUB_TOML: Final = 'hub_id = "home"\nstate_dir = "/var/lib/hometwin"\nruntime_dir = "/run/hometwin"\n'
KINDS: Final = {
    "docs": "as the docs say: tpm2, PCR 16",
    "host": "host+tpm2, PCR 16",
    "pcr7": "tpm2 with systemd's own default (PCR 7)",
    "none": "tpm2, bound to no PCR",
}

# The installed hub but for its radio, which a virtual machine lacks: without one it would stop right after its start.
_DEAF_HUB: Final = """
import asyncio
from edge import hub, hub_main

async def deaf(_supervisor):
    await asyncio.Event().wait()

hub.Supervisor.run = deaf
hub_main.with_one_line_errors(hub_main.main)
"""
_DEAF_UNIT: Final = """[Service]
ExecStart=
ExecStart=/opt/hometwin/bin/python -P /usr/local/lib/deaf_hub.py /etc/hometwin/hub.toml
"""
# Asked through the socket: emulated, the command line needs half a minute for its libraries.
_TOOLS: Final = """
export PATH=/opt/hometwin/bin:$PATH
cred=/etc/hometwin/store.key.cred
ask() { python3 -IS -c 'import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect("/run/hometwin/hub.sock"); s.sendall(sys.argv[1].encode() + b"\\n")
print(s.makefile().readline())' "$1" 2>&1; }
settle() {  # until the hub is up, or has failed more than once
  for i in $(seq 600); do
    [ "$(systemctl is-active hometwin-hub)" = active ] && break
    [ "$(systemctl show -P NRestarts hometwin-hub)" -ge 2 ] && break
    sleep 1
  done; }
state() { settle; journalctl --no-pager -o cat -u hometwin-hub -n 25 | say "$1.journal"
  { systemctl is-active hometwin-hub; ask '{"do": "entries"}'; } | say "$1"; }
unsealed() { for kind in docs host pcr7 none; do  # what a unit gets that may see no device
    systemd-run -q --wait --pipe -p User=hometwin -p PrivateDevices=yes -p DevicePolicy=closed \\
      -p LoadCredentialEncrypted=store.key:/root/kept/$kind \\
      sh -c 'od -An -v -tx1 $CREDENTIALS_DIRECTORY/store.key' 2>&1 | tr -d ' \\n' | say "$1.$kind"
  done; }
told() { { systemctl status --no-pager --full hometwin-hub; journalctl --no-pager -u hometwin-hub -n 30; } 2>&1 | say unit
  { hometwin status; hometwin keys list; } 2>&1 | say program; }
"""
_MAKE: Final = """
install -D -m 644 hub.toml /etc/hometwin/hub.toml
install -m 600 store.key /etc/hometwin/store.key
mkdir /etc/hometwin/sync
cp systemd/*.service /etc/systemd/system/
install -D -m 644 deaf_hub.py /usr/local/lib/deaf_hub.py
install -D -m 644 deaf.conf /etc/systemd/system/hometwin-hub.service.d/deaf.conf
install -Dm 644 systemd/hometwin.sysusers.conf /etc/sysusers.d/hometwin.conf && systemd-sysusers
install -Dm 644 systemd/hometwin.tmpfiles.conf /etc/tmpfiles.d/hometwin.conf && systemd-tmpfiles --create
systemctl daemon-reload; systemctl enable --now hometwin-hub
ask '{"do": "log", "kind": "carbs_g", "value": GRAMS}' | say logged
state clear
{ SEAL_BLOCK
} <words 2>&1 | say seal
state sealed
ls /etc/hometwin | say left
mkdir /root/kept; cp $cred /root/kept/docs
systemd-creds encrypt --with-key=host+tpm2 --tpm2-pcrs=16 --name=store.key store.key /root/kept/host
systemd-creds encrypt --with-key=tpm2 --name=store.key store.key /root/kept/pcr7
systemd-creds encrypt --with-key=tpm2 --tpm2-pcrs= --name=store.key store.key /root/kept/none
unsealed made
systemctl --version | head -1 | say systemd
echo | say done
"""
_SAME: Final = """
state boot
unsealed boot
python3 extend.py
unsealed extended
systemd-creds decrypt --name=store.key $cred - | od -An -v -tx1 | tr -d ' \\n' | say thief
echo | say done
"""
_OTHER: Final = """
state refused
told
unsealed other
{ MEND_BLOCK
} <INPUT 2>&1 | say mend
state mended
ls -l /var/lib/hometwin | say owners
echo | say done
"""
_EXTEND: Final = """
import os
chip = os.open("/dev/tpmrm0", os.O_RDWR)  # TPM2_PCR_Extend of PCR 7 with an empty password, SHA-256 (TPM 2.0 part 3, 22.2)
body = (7).to_bytes(4) + (9).to_bytes(4) + bytes.fromhex("40000009" "0000" "00" "0000" "00000001" "000b") + b"x" * 32
os.write(chip, bytes.fromhex("8002") + (len(body) + 10).to_bytes(4) + (0x182).to_bytes(4) + body)
print(os.read(chip, 4096)[6:10].hex())
"""


def blocks() -> list[str]:
    """The shell blocks of the docs' section: seal, recover by passphrase, by paper, change the key."""
    page = (ROOT / "docs/configuration.md").read_text()
    section = page.split("### A key sealed to the machine", 1)[1].split("\n### ", 1)[0]
    found = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    if len(found) != 4:
        raise EnvironmentMissing(f"{len(found)} blocks of commands, not 4", where="docs/configuration.md")
    return found


def run(quick: bool = False) -> Section:
    """Some fifteen minutes emulated, more for what has to be fetched. ``quick`` changes nothing."""
    check_host()
    seal, recover, paper, _ = blocks()
    with tempfile.TemporaryDirectory(prefix="hometwin-tpm-") as temporary:
        work = Path(temporary)
        kept = Path(os.environ.get("HOMETWIN_GUEST", work / "guest"))
        kept.mkdir(parents=True, exist_ok=True)
        guest = build(kept)
        key = secrets.token_bytes(32)
        files = {f"systemd/{p.name}": p.read_bytes() for p in (ROOT / "systemd").iterdir()}
        texts = {"hub.toml": HUB_TOML, "words": f"{WORDS}\n", "paper": f"{key.hex()}\n"}
        texts |= {"extend.py": _EXTEND, "deaf_hub.py": _DEAF_HUB, "deaf.conf": _DEAF_UNIT}
        files |= {"store.key": key} | {name: text.encode() for name, text in texts.items()}

        disk = overlay(guest.disk, work / "hub.qcow2")
        chip = work / "chip"
        script = _TOOLS + _MAKE.replace("GRAMS", GRAMS).replace("SEAL_BLOCK", seal)
        said = {"made": boot(guest, disk, work, script, files, chip)}
        copies = _copies(disk, work, key)
        said["same"] = boot(guest, disk, work, _TOOLS + _SAME, files, chip)
        mends = {"other": recover, "bare": paper.replace("tpm2 --tpm2-pcrs=16", "host")}
        for name, block in mends.items():
            script = _OTHER.replace("MEND_BLOCK", block).replace(
                "INPUT", "words" if name == "other" else "paper"
            )
            another = work / "another" if name == "other" else None
            said[name] = boot(
                guest, overlay(disk, work / f"{name}.qcow2"), work, _TOOLS + script, files, another
            )
    return _section(
        {name: texts for name, (texts, _) in said.items()}, key, copies, {n: s for n, (_, s) in said.items()}
    )


def _copies(disk: Path, work: Path, key: bytes) -> int:
    """How often a key lies in clear anywhere on the disk, as bytes or as digits."""
    raw = flatten(disk, work / "whole.raw")
    with raw.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        if whole.find(HUB_TOML.encode()) < 0:  # a file that does lie there in clear: the search sees the disk
            raise EnvironmentMissing("the guest's disk cannot be searched", where="bench tpm")
        found = sum(len(re.findall(re.escape(form), whole)) for form in (key, key.hex().encode()))
    raw.unlink()
    return found


def _opened(said: dict[str, str], name: str) -> bool:
    """Whether the hub was up and showed the meal that was entered before the key was sealed."""
    state = said.get(name, "")
    return state.startswith("active\n") and f" {GRAMS} g" in state


def _section(said: dict[str, dict[str, str]], key: bytes, copies: int, seconds: dict[str, float]) -> Section:
    made, same, other, bare = (said[name] for name in ("made", "same", "other", "bare"))
    strangers = (other, bare)
    hub = [_opened(made, "clear"), _opened(made, "sealed"), _opened(same, "boot")]
    unit = [
        texts[f"{when}.{kind}"] == key.hex()
        for texts, when in ((made, "made"), (same, "boot"))
        for kind in ("docs", "host", "pcr7")
    ]
    refused = [not _opened(texts, "refused") for texts in strangers]
    refused += [key.hex() not in texts[f"other.{kind}"] for texts in strangers for kind in KINDS]
    told = [
        "No alarms: this machine cannot open" in texts["unit"]
        and "hometwin keys recover" in texts["unit"]
        and "systemctl status" in texts["program"]
        and "hometwin keys recover" in texts["program"]
        for texts in strangers
    ]
    mended = [_opened(texts, "mended") for texts in strangers]
    foreign = sum(" root root " in line for texts in strangers for line in texts["owners"].splitlines())
    counts = (
        ("the hub opens its store: clear key, sealed by the docs' lines, after a boot", hub),
        (
            "a unit without devices gets the key: tpm2, host+tpm2, tpm2 on PCR 7, each before and after a boot",
            unit,
        ),
        (
            "PCR 7 changed: the key sealed by the docs' lines still opens",
            [same["extended.docs"] == key.hex()],
        ),
        ("the same disk with another TPM and with none: hub and every sealed key stay closed", refused),
        ("… journal and program say why, and what mends it", told),
        ("… the docs' lines mend it (passphrase, key on paper), the record is whole", mended),
        ("the paper's digits that the docs' lines print are the key", [key.hex() in made["seal"]]),
    )
    figures = (
        *(
            Figure(name, f"{len(seen)} of {len(seen)}", f"{sum(seen)} of {len(seen)}", "–", all(seen))
            for name, seen in counts
        ),
        Figure(
            "copies of the key in clear on the whole disk, once sealed", "0", str(copies), "–", copies == 0
        ),
        Figure(
            "files left that the hub's user does not own, once mended by root",
            "0",
            str(foreign),
            "–",
            foreign == 0,
        ),
        Figure(
            "root on the whole hub gets the key (as docs/security.md says)",
            "–",
            "yes" if same["thief"] == key.hex() else "no",
        ),
    )
    moments = ((made, "made"), (same, "boot"), (same, "extended"), (other, "other"), (bare, "other"))
    rows = tuple(
        (label, *("opened" if texts[f"{when}.{kind}"] == key.hex() else "refused" for texts, when in moments))
        for kind, label in KINDS.items()
    )
    words = tuple(
        (where, line)
        for where, texts in (("another TPM", other), ("no TPM", bare))
        for line in _last_words(texts)
    )
    how = "emulated" if any("tcg" in word for word in accelerator()) else "KVM"
    return Section(
        "tpm",
        "the store's key sealed to a TPM: the installed hub in a virtual machine",
        (
            Table(
                "Sealed keys",
                ("sealed", "at once", "after a boot", "PCR 7 changed", "another TPM", "no TPM"),
                rows,
            ),
            Table("What a person reads", ("machine", "words"), words),
        ),
        (
            f"a software TPM (swtpm), {made['systemd'].strip()}; no real TPM was at hand; the hub without its radio, which the machine lacks",
            "root's commands are docs/configuration.md's own lines, units and drop-in those of systemd/",
            f"seconds from power on to off, {how}: "
            + ", ".join(f"{name} {s:.0f}" for name, s in seconds.items()),
        ),
        figures,
    )


def _last_words(texts: dict[str, str]) -> list[str]:
    """The newest line of systemd about the credential, the first sentence of ours in the journal, and the program's."""
    lines = [line.partition(" hub ")[2] or line for line in texts["unit"].splitlines()]
    systemd = [line for line in lines if "redential" in line and "No alarms" not in line][-1:]
    ours = [line.split(". ")[0] + " …" for line in lines if "No alarms" in line][-1:]
    return [line.strip().replace("|", "/") for line in (*systemd, *ours, *texts["program"].splitlines())]
