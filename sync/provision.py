"""Makes the keys and certificates of one house: authority, broker, cloud, hubs. Running it again mends.

Nothing that exists is replaced (a store key that changed would cost a person their record); what is missing
is added. What can be derived is mended: certificates that are about to expire, do not fit their key, or (the
broker's) do not name the host are issued anew, and copies of public keys follow their originals. Private files have
mode 0600, folders 0700.
"""

from __future__ import annotations

import datetime as dt
import getpass
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from core.errors import ConfigError, EnvironmentMissing
from sync.broker_config import acl_text, broker_config_text
from sync.keyfiles import read_envelope_key

HUB_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
CLOUD_NAME: Final = "cloud"  # common name of the cloud's certificate, so no hub may have it
SYMMETRIC_KEY_BYTES: Final = 32
# A hub in a drawer for some years must still connect; revocation is taking it out of the broker's ACL.
AUTHORITY_DAYS: Final = 7300
CERTIFICATE_DAYS: Final = 3650
RENEW_DAYS: Final = 60
# A Pi without a clock chip boots in the past: up to a day of that does not make certificates invalid.
BACKDATE: Final = dt.timedelta(days=1)


class Paths(NamedTuple):
    """Where provision puts things."""

    root: Path

    @property
    def authority(self) -> Path:
        return self.root / "authority"

    @property
    def broker(self) -> Path:
        return self.root / "broker"

    @property
    def broker_conf(self) -> Path:
        return self.broker / "mosquitto.conf"

    @property
    def cloud(self) -> Path:
        return self.root / "cloud"

    def hub(self, hub_id: str) -> Path:
        return self.root / "hubs" / hub_id


def provision(
    root: Path, hub_ids: Sequence[str], host: str, port: int, now: dt.datetime | None = None
) -> list[Path]:
    """Make what is missing below ``root`` for these hubs (those made earlier stay); returns what was written.

    ``host`` is the broker's name or address as hubs and cloud will call it; ``now`` is for tests.
    Raises ConfigError for bad names, EnvironmentMissing when the folder cannot be written.
    """
    root = Path(os.path.realpath(root))
    _check_names(root, hub_ids, host, port)
    moment = now or dt.datetime.now(dt.UTC)
    made: list[Path] = []
    try:
        _provision(_Files(made), Paths(root), hub_ids, host, port, moment)
    except OSError as err:
        raise EnvironmentMissing(
            f"cannot be written: {err.strerror}",
            where=str(err.filename or root),
            mend="give a folder that is yours",
        ) from None
    return made


def _provision(
    files: _Files, paths: Paths, hub_ids: Sequence[str], host: str, port: int, now: dt.datetime
) -> None:
    known = _known_hubs(paths)
    hubs = sorted(known | set(hub_ids))
    for folder in (paths.root, paths.authority, paths.broker, paths.cloud, paths.cloud / "hubs"):
        files.folder(folder)
    authority = _Authority(files, paths.authority, now)
    _server_files(files, paths.broker, authority, host)
    authority.client_files(paths.cloud, CLOUD_NAME)
    _signing_files(files, paths.cloud)
    _symmetric_key(files, paths.cloud / "database.key")
    for hub_id in hubs:
        folder = paths.hub(hub_id)
        files.folder(folder.parent)
        files.folder(folder)
        authority.client_files(folder, hub_id)
        files.write(folder / "cloud.pub", (paths.cloud / "signing.pub").read_bytes(), replace=True)
        _symmetric_key(files, folder / "store.key")
        _same_key(files, folder / "envelope.key", paths.cloud / "hubs" / f"{hub_id}.key")
    files.folder(paths.broker / "data")
    files.write(paths.broker / "acl", acl_text(CLOUD_NAME, hubs).encode(), replace=True)
    text = broker_config_text(paths.broker, host, port, getpass.getuser())
    files.write(paths.broker_conf, text.encode(), replace=True)


def _check_names(root: Path, hub_ids: Sequence[str], host: str, port: int) -> None:
    if not str(root).isprintable():  # it stands in mosquitto.conf, where a line's end begins another setting
        raise ConfigError(
            "this name holds characters that no configuration can",
            where=ascii(str(root)),
            mend="name the folder in printable UTF-8",
        )
    for hub_id in hub_ids:
        if not HUB_ID.fullmatch(hub_id) or hub_id == CLOUD_NAME:
            raise ConfigError(
                f"{hub_id[:40]!r} cannot name a hub",
                where="hub_id",
                mend="use up to 32 small letters, digits and dashes, and not 'cloud'",
            )
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", host):
        raise ConfigError(f"{host[:40]!r} is no host name or address", where="host")
    if not 1 <= port <= 65535:
        raise ConfigError(f"{port} is no port", where="port", mend="use 1..65535, normally 8883")


def _known_hubs(paths: Paths) -> set[str]:
    folder = paths.root / "hubs"
    return {p.name for p in folder.iterdir() if HUB_ID.fullmatch(p.name)} if folder.is_dir() else set()


class _Files:
    """Writes files whole or not at all, and notes which."""

    def __init__(self, made: list[Path]) -> None:
        self._made = made

    def folder(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, path: Path, data: bytes, *, replace: bool = False) -> None:
        """``data`` in ``path`` when there is nothing yet, or when it may be replaced and differs."""
        if path.exists() and (not replace or path.read_bytes() == data):
            return
        # Certificates and public keys are 0600 as well: one rule, and only one account reads these folders.
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self._made.append(path)


class _Authority:
    """The certificate authority of the house, made on first use."""

    def __init__(self, files: _Files, folder: Path, now: dt.datetime) -> None:
        self._files = files
        self._now = now
        path = folder / "ca.crt"
        if path.exists() and not (folder / "ca.key").exists():
            raise ConfigError(
                "the authority's key is lost, so nothing can be issued",
                where=str(folder / "ca.key"),
                mend="put it back; or remove that folder and give all hubs new files",
            )
        self._key = _private_key(files, folder / "ca.key")
        if not path.exists():
            name = _name("Hometwin house authority")
            builder = self._builder(name, name, self._key, AUTHORITY_DAYS)
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
            files.write(path, _pem(builder.sign(self._key, hashes.SHA256())))
        self.certificate = _load_certificate(path)
        self.pem = path.read_bytes()

    def client_files(self, folder: Path, common_name: str) -> None:
        """ca.crt, client.key and client.crt in ``folder``; the common name is the broker's user name."""
        self._files.write(folder / "ca.crt", self.pem, replace=True)
        key = _private_key(self._files, folder / "client.key")
        path = folder / "client.crt"
        if self.still_good(path, key):
            return
        builder = self._leaf(common_name, key, ExtendedKeyUsageOID.CLIENT_AUTH)
        self._files.write(path, _pem(builder.sign(self._key, hashes.SHA256())), replace=True)

    def still_good(self, path: Path, key: ec.EllipticCurvePrivateKey) -> bool:
        """Whether ``path`` holds a certificate of ours for ``key`` that lasts for a while."""
        if not path.exists():
            return False
        certificate = _load_certificate(path)
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        lasts = certificate.not_valid_after_utc > self._now + dt.timedelta(days=RENEW_DAYS)
        return lasts and certificate.public_key() == key.public_key()

    def server_certificate(self, key: ec.EllipticCurvePrivateKey, host: str) -> bytes:
        """A certificate for ``host`` and this machine itself."""
        builder = self._leaf(host[:64], key, ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(x509.SubjectAlternativeName(_server_names(host)), critical=False)
        return _pem(builder.sign(self._key, hashes.SHA256()))

    def _leaf(
        self, common_name: str, key: ec.EllipticCurvePrivateKey, usage: x509.ObjectIdentifier
    ) -> x509.CertificateBuilder:
        builder = self._builder(_name(common_name), self.certificate.subject, key, CERTIFICATE_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        return builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
    ) -> x509.CertificateBuilder:
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - BACKDATE)
            .not_valid_after(self._now + dt.timedelta(days=days))
            .add_extension(identifier, critical=False)
            .add_extension(issuer_identifier, critical=False)
        )


def _server_files(files: _Files, folder: Path, authority: _Authority, host: str) -> None:
    files.write(folder / "ca.crt", authority.pem, replace=True)
    key = _private_key(files, folder / "server.key")
    path = folder / "server.crt"
    if authority.still_good(path, key):
        names = _load_certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        if set(_server_names(host)) <= set(names.value):
            return
    files.write(path, authority.server_certificate(key, host), replace=True)


def _server_names(host: str) -> list[x509.GeneralName]:
    names: dict[x509.GeneralName, None] = {x509.DNSName("localhost"): None}
    for address in ("127.0.0.1", "::1"):
        names[x509.IPAddress(ipaddress.ip_address(address))] = None
    try:
        names[x509.IPAddress(ipaddress.ip_address(host))] = None
    except ValueError:
        names[x509.DNSName(host)] = None
    return list(names)


def _signing_files(files: _Files, folder: Path) -> None:
    path = folder / "signing.key"
    files.write(path, _private_pem(Ed25519PrivateKey.generate()))
    key = _load_private(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("is not an Ed25519 key", where=str(path), mend="put back the file made first")
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    files.write(folder / "signing.pub", public, replace=True)


def _private_key(files: _Files, path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in ``path``, made there when missing. P-256: every TLS library and small board has it."""
    if not path.exists():
        files.write(path, _private_pem(ec.generate_private_key(ec.SECP256R1())))
    key = _load_private(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            "is not an elliptic-curve key", where=str(path), mend="put back the file made first"
        )
    return key


def _load_private(path: Path) -> object:
    try:
        return serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as err:
        raise ConfigError(
            "is not a private key", where=str(path), mend="put back the file made first"
        ) from err


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as err:
        raise ConfigError(
            "is not a certificate", where=str(path), mend="put back the file made first"
        ) from err


def _symmetric_key(files: _Files, path: Path) -> None:
    files.write(path, os.urandom(SYMMETRIC_KEY_BYTES))


def _same_key(files: _Files, own: Path, copy: Path) -> None:
    """One key at both ends: whichever end still has it mends the other."""
    if copy.exists() and not own.exists():
        files.write(own, copy.read_bytes())
    _symmetric_key(files, own)
    files.write(copy, own.read_bytes())
    mend = "remove the one that is wrong, and run this again"
    for path in (own, copy):
        try:
            read_envelope_key(path)
        except ConfigError as err:
            raise ConfigError(err.what, where=err.where, mend=mend) from None
    if own.read_bytes() != copy.read_bytes():
        raise ConfigError(f"is another key than {copy}", where=str(own), mend=mend)


def _private_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
