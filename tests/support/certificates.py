"""Certificates for tests: made when asked for, by their own issuer."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def certificate(
    name: str = "exchange.example.com", valid_until: datetime.datetime = NOW + DAY
) -> tuple[bytes, bytes]:
    """Return a certificate and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 30 * DAY)
        .not_valid_after(valid_until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM), _key(key, serialization.NoEncryption())


def locked_key() -> bytes:
    """Return a key that has a password."""
    return _key(ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"password"))


def serial_of(pem_or_der: bytes) -> int:
    """Return a certificate's number."""
    load = (
        x509.load_pem_x509_certificate if pem_or_der.startswith(b"-----") else x509.load_der_x509_certificate
    )
    return load(pem_or_der).serial_number


def _key(key: ec.EllipticCurvePrivateKey, encryption: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


class Files:
    """A certificate and its key in files, written as certbot does: new files, to which links are turned."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "fullchain.pem", folder / "privkey.pem"
        self._folder = folder
        self._number = 0

    def write(self, certificate: bytes, key: bytes) -> int:
        """Put both in their places; return the certificate's number, or 0 where it is none."""
        self._number += 1
        for link, content in ((self.key, key), (self.certificate, certificate)):
            file = self._folder / f"{self._number}-{link.name}"
            file.write_bytes(content)
            draft = self._folder / "draft"
            draft.symlink_to(file)
            draft.replace(link)
        return serial_of(certificate) if certificate.startswith(b"-----BEGIN CERT") else 0
