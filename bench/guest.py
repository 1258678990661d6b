"""A small Debian guest in qemu: built from the host's own apt sources, booted with a script and a TPM, read at its end.

The guest has a kernel with nothing but its disk's drivers, systemd and Hometwin installed in /opt/hometwin as on a hub.
Each boot runs one script from a second disk (a tar archive) and powers off; what it says comes back on a serial line.
Emulated (TCG) where the processor's own virtualisation is not to be had: some twelve times slower.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.errors import EnvironmentMissing

ROOT: Final = Path(__file__).parent.parent
SUITE: Final = "bookworm"
NEEDED: Final = {  # command -> Debian package
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "modprobe": "kmod",
    "mke2fs": "e2fsprogs",
    "swtpm": "swtpm",
}
PACKAGES: Final = (
    "systemd,systemd-sysv,udev,dbus,python3,python3-venv,"
    "libtss2-esys-3.0.2-0,libtss2-rc0,libtss2-mu0,libtss2-tcti-device0"
)
BOOT_TIMEOUT_S: Final = 1200  # emulated, on a busy machine; a quiet one needs a minute or two
_INITRD_MODULES: Final = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
_INIT: Final = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for m in $(/bin/busybox cat /order); do /bin/busybox insmod /m/$m; done
while [ ! -b /dev/vdb ]; do /bin/busybox usleep 50000; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""
_STAGE: Final = """[Unit]
Description=What this boot is for
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mkdir /run/stage && cd /run/stage && tar -xf /dev/vdb && sh ./stage >/dev/ttyS0 2>&1'
ExecStopPost=/bin/systemctl poweroff
[Install]
WantedBy=multi-user.target
"""
# A script's own word for its host: `COMMAND | say NAME`.
_SAY: Final = """say() { printf '%s %s\\n' "$1" "$(base64 -w0)" >>/dev/ttyS1; }\n"""
_KERNEL_LINE: Final = (
    "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 nokaslr mitigations=off cryptomgr.notests "
    "random.trust_cpu=1 audit=0 apparmor=0"
)


def check_host() -> None:
    """EnvironmentMissing names every package that is not there; nothing is ever installed."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [package for command, package in NEEDED.items() if not shutil.which(command, path=path)]
    if missing:
        raise EnvironmentMissing(
            f"missing: {' '.join(missing)}", where="bench tpm", mend=f"apt-get install {' '.join(missing)}"
        )
    if os.geteuid() != 0:
        raise EnvironmentMissing("only root can build the guest", where="bench tpm", mend="run it as root")


def _run(*command: str | Path, cwd: Path | None = None, text: str | None = None) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, input=text, capture_output=True, text=True)
    if done.returncode:
        raise EnvironmentMissing(
            f"{' '.join(map(str, command))[:80]} failed: {done.stderr.strip()[-400:]}", where="bench tpm"
        )
    return done.stdout


@dataclass(frozen=True)
class Guest:
    """``disk`` (raw), kernel and initrd."""

    disk: Path
    kernel: Path
    initrd: Path


def build(folder: Path) -> Guest:
    """Build in ``folder``; Debian and the libraries are kept there for the next time, Hometwin is put in anew."""
    check_host()
    root = folder / "root"
    guest = Guest(folder / "base.raw", folder / "vmlinuz", folder / "initrd")
    if not (folder / "built").exists():
        shutil.rmtree(root, ignore_errors=True)
        sources = _run("apt-get", "indextargets", "--format", "$(ORIGIN)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
                       "Created-By: Packages")  # fmt: skip
        lines = sorted({line[7:] for line in sources.splitlines() if line.startswith("Debian|")})
        _run("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={PACKAGES}", "--format=directory",
             *(f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("doc", "man", "locale")),
             SUITE, root, "-", text="\n".join(lines) + "\n")  # fmt: skip
        _boot_files(folder, guest)
        (root / "etc/fstab").write_text("/dev/vda / ext4 rw,relatime 0 1\n")
        (root / "etc/hostname").write_text("hub\n")
        (root / "etc/systemd/system/stage.service").write_text(_STAGE)
        _run("chroot", root, "systemctl", "enable", "--quiet", "stage.service")
        _run("chroot", root, "systemctl", "mask", "--quiet", "apt-daily.timer", "apt-daily-upgrade.timer",
             "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer", "getty@tty1.service",
            "serial-getty@ttyS0.service")  # fmt: skip
        (folder / "built").touch()
    _install(folder / "source", root)
    guest.disk.unlink(missing_ok=True)
    _run("mke2fs", "-q", "-t", "ext4", "-d", root, guest.disk, "2G")
    return guest


def _install(source: Path, root: Path) -> None:
    """Hometwin and its libraries into /opt/hometwin, as ``make setup VENV=/opt/hometwin EXTRAS=`` does on a hub."""
    shutil.rmtree(source, ignore_errors=True)
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "bench", "tests")
    shutil.copytree(ROOT, source, ignore=unwanted)
    wheels = root / "opt/wheels"
    _run(sys.executable, "-m", "pip", "wheel", "-q", "-c", ROOT / "constraints.txt", "-w", wheels, source)
    _run("chroot", root, "python3", "-m", "venv", "/opt/hometwin")
    _run(
        "chroot",
        root,
        "/opt/hometwin/bin/pip",
        "install",
        "-q",
        "--no-index",
        "--find-links=/opt/wheels",
        "hometwin",
    )
    _run("chroot", root, "/opt/hometwin/bin/pip", "install", "-q", "--no-index", "--find-links=/opt/wheels",
         "--no-deps", "--force-reinstall", "hometwin")  # fmt: skip
    shutil.rmtree(wheels)


def _boot_files(folder: Path, guest: Guest) -> None:
    """The kernel of Debian's package and an initrd with the modules of the disk. bzImage: only it finds the TPM by ACPI."""
    depends = _run("apt-cache", "depends", "linux-image-amd64").split("Depends: ")[1].split()[0]
    _run("apt-get", "-qq", "download", depends, cwd=folder)
    unpacked, initrd = folder / "kernel", folder / "initrd.d"
    _run("dpkg-deb", "-x", next(folder.glob(f"{depends}_*.deb")), unpacked)
    version = depends.removeprefix("linux-image-")
    _run("depmod", "-b", unpacked, version)
    shutil.copy(unpacked / f"boot/vmlinuz-{version}", guest.kernel)
    for name in ("bin", "dev", "root", "m"):
        (initrd / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(str(shutil.which("busybox")), initrd / "bin/busybox")
    order: list[str] = []
    for module in _INITRD_MODULES:
        for line in _run("modprobe", "-d", unpacked, "-S", version, "--show-depends", module).splitlines():
            word, _, file = line.strip().partition(" ")
            name = Path(file).name
            if word == "insmod" and name not in order:
                shutil.copy(file, initrd / "m" / name)
                order.append(name)
    (initrd / "order").write_text("\n".join(order))
    (initrd / "init").write_text(_INIT)
    (initrd / "init").chmod(0o755)
    names = "\n".join(str(p.relative_to(initrd)) for p in sorted(initrd.rglob("*")))
    with guest.initrd.open("wb") as out:
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), stdout=out, cwd=initrd, check=True
        )
    shutil.rmtree(unpacked)
    shutil.rmtree(initrd)


def flatten(disk: Path, raw: Path) -> Path:
    """The whole content of ``disk``, byte for byte."""
    _run("qemu-img", "convert", "-O", "raw", disk, raw)
    return raw


def overlay(under: Path, path: Path) -> Path:
    """A disk that begins as ``under`` and leaves it as it is."""
    kind = "raw" if under.suffix == ".raw" else "qcow2"
    path.unlink(missing_ok=True)
    _run("qemu-img", "create", "-q", "-f", "qcow2", "-b", under.absolute(), "-F", kind, path)
    return path


def accelerator() -> tuple[str, ...]:
    """KVM where the processor itself has it; a /dev/kvm without it exists, and never gets a kernel to its console."""
    flags = Path("/proc/cpuinfo").read_text().split()
    if ("vmx" in flags or "svm" in flags) and os.access("/dev/kvm", os.R_OK | os.W_OK):
        return ("-accel", "kvm", "-cpu", "host")
    return ("-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem")


def boot(
    guest: Guest, disk: Path, work: Path, script: str, files: Mapping[str, bytes], tpm: Path | None
) -> tuple[dict[str, str], float]:
    """Boot ``disk`` with the TPM whose state lies in folder ``tpm``, run ``script``, power off.

    Returns what it said, by name, and the seconds from power on to off.
    """
    stage, out, console = work / "stage.tar", work / "out", work / "console"
    _pack(stage, {**files, "stage": (_SAY + script).encode()}.items())
    for place in (out, console):
        place.write_text("")  # also when qemu does not even start
    chip: list[str] = []
    soft: subprocess.Popen[bytes] | None = None
    if tpm is not None:
        tpm.mkdir(exist_ok=True)
        socket = work / "tpm.sock"
        socket.unlink(missing_ok=True)
        control = f"type=unixio,path={socket}"
        soft = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={tpm}", "--ctrl", control, "--terminate"]
        )
        while not socket.exists() and soft.poll() is None:
            time.sleep(0.05)
        chip = ["-chardev", f"socket,id=chip,path={socket}", "-tpmdev", "emulator,id=tpm0,chardev=chip",
                "-device", "tpm-tis,tpmdev=tpm0"]  # fmt: skip
    drives = [f"file={disk},format=qcow2,if=none,id=d0", f"file={stage},format=raw,if=none,id=d1"]
    command = [
        "qemu-system-x86_64", "-M", "q35", *accelerator(), "-m", "1024", "-nodefaults", "-no-user-config",
        "-display", "none", "-no-reboot", "-kernel", str(guest.kernel), "-initrd", str(guest.initrd),
        "-append", _KERNEL_LINE, "-serial", f"file:{console}", "-serial", f"file:{out}", "-device", "virtio-rng-pci",
        *(word for k, d in enumerate(drives) for word in ("-drive", d, "-device", f"virtio-blk-pci,drive=d{k}")),
        *chip,
    ]  # fmt: skip
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BOOT_TIMEOUT_S)
        failure = done.stderr.strip()[-400:] if done.returncode else ""
    except subprocess.TimeoutExpired:
        failure = f"not done after {BOOT_TIMEOUT_S} s"
    finally:
        if soft is not None:
            soft.terminate()
            soft.wait()
    said = dict(line.split(" ", 1) for line in out.read_text().splitlines() if " " in line)
    if failure or "done" not in said:
        tail = console.read_text(errors="replace")[-1500:]
        raise EnvironmentMissing(f"the guest did not come to its end: {failure}\n{tail}", where="bench tpm")
    texts = {name: base64.b64decode(value).decode(errors="replace") for name, value in said.items()}
    return texts, time.monotonic() - began


def _pack(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
