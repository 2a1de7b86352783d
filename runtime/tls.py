"""TLS for servers without a proxy: certificate files that are reloaded when they change; and clients.

Open connections keep their certificate; new ones get that of the last valid files. Unusable files
(unreadable, certificate and key do not match, expired) change nothing.
"""

import asyncio
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import structlog
from cryptography import x509

from runtime.settings import PREFIX, Settings, SettingsError

LOOK_S: Final = 10.0
"""Interval at which the files are checked."""

_log = structlog.get_logger()


class CertificateError(Exception):
    """The files are not a certificate with its key, or it is not valid now; the message says which."""


class ServerTls:
    """The certificate of a server; `context` stays the same object while the certificate changes."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read the files.

        Raises:
            CertificateError: they cannot be used. An expired certificate can be used: clients refuse it, and
                a renewed one is read.
        """
        self._certificate, self._key = certificate, key
        self.context = _empty_context()
        self._seen = self._stamp()
        self._read(is_expired_taken=True)

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Return the TLS of the settings; None: no TLS.

        Raises:
            SettingsError: the files cannot be used.
        """
        if not settings.tls_certificate:
            return None
        try:
            return cls(Path(settings.tls_certificate), Path(settings.tls_key))
        except CertificateError as error:
            raise SettingsError(f"{PREFIX}TLS_CERTIFICATE, {PREFIX}TLS_KEY: {error}") from error

    def look(self) -> bool:
        """Read the files again if they have changed since the last time.

        Return whether the server now has a new certificate.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self._read(is_expired_taken=False)
        except CertificateError as error:
            _log.error("the new certificate is not used; the one of before stays", reason=str(error))
            return False
        return True

    async def watch(self, look_s: float = LOOK_S) -> None:
        """Check the files forever, every `look_s` seconds."""
        while True:
            await asyncio.sleep(look_s)
            self.look()

    def _stamp(self) -> tuple[object, ...]:
        return tuple(_stamp_of(path) for path in (self._certificate, self._key))

    def _read(self, *, is_expired_taken: bool) -> None:
        try:
            certificate, key = self._certificate.read_bytes(), self._key.read_bytes()
            valid_until = _valid_until(certificate)
        except (OSError, ValueError) as error:
            raise CertificateError(str(error)) from error
        if valid_until <= datetime.now(UTC):
            expired = f"{self._certificate} has expired on {valid_until:%Y-%m-%d}"
            if not is_expired_taken:
                raise CertificateError(expired)
            _log.error("clients will refuse this certificate", reason=expired)
        # The very bytes that were checked: files may change in between, and a context with a certificate but
        # not its key serves nobody.
        with _readable(certificate) as certificate_path, _readable(key) as key_path:
            try:
                for context in (_empty_context(), self.context):
                    # Nobody can enter a password for the key at a server; without this, OpenSSL would ask on
                    # the terminal.
                    context.load_cert_chain(certificate_path, key_path, password=lambda: "")
            except ssl.SSLError as error:
                reason = error.reason or "one of them is no PEM file, or the key has a password"
                raise CertificateError(
                    f"{self._certificate} and {self._key} are not used: {reason}"
                ) from error
        _log.info("certificate read", file=str(self._certificate), valid_until=valid_until.isoformat())


class LocalTrust:
    """The certificate that clients on this machine trust: the one that the settings name.

    Host names are not compared: clients on this machine connect to an address, while the certificate has a
    public name.
    """

    def __init__(self, certificate: Path) -> None:
        """Trust the certificate in the file; see `refresh`."""
        self._certificate = certificate
        self._seen: object = None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.check_hostname = False
        self.context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self.refresh()

    @classmethod
    def of(cls, settings: Settings, url: str = "") -> Self | None:
        """Return the trust for the servers of these settings.

        None: they have no TLS, or `url` is another server's.
        """
        if not settings.tls_certificate or url:
            return None
        return cls(Path(settings.tls_certificate))

    def refresh(self) -> None:
        """Also trust the certificate that the file has now.

        An unreadable file changes nothing.
        """
        stamp = _stamp_of(self._certificate)
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self.context.load_verify_locations(self._certificate)
        except OSError as error:
            _log.warning(
                "the certificate of the servers cannot be read", file=str(self._certificate), error=str(error)
            )


def unverified_context() -> ssl.SSLContext:
    """Return a context for testing whether an own server answers.

    No secret is sent, and the certificate may be about to be renewed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _empty_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _valid_until(certificate: bytes) -> datetime:
    """Return when the first certificate of a PEM file, the server's own, expires."""
    chain = x509.load_pem_x509_certificates(certificate)
    return chain[0].not_valid_after_utc


def _stamp_of(path: Path) -> object:
    """Return a value that changes when the file is written, replaced, or reached through another link."""
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


@contextmanager
def _readable(content: bytes) -> Iterator[str]:
    """Yield a path from which OpenSSL, which reads only files, can read `content`; it is never on a disk."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
