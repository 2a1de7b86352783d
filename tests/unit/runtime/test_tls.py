"""What a server shows is what its files held last that could be used.

Who is connected notices nothing of a change.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import structlog.testing

from runtime.settings import Settings, SettingsError, load_settings
from runtime.tls import CertificateError, LocalTrust, ServerTls, unverified_context
from tests.support.certificates import DAY, NOW, Files, certificate, locked_key, serial_of

TIMEOUT_S = 20


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class Echo:
    """A server that says what it hears, by the context of a `ServerTls`."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with self._tls.context.wrap_socket(connection, server_side=True) as client:
                while said := client.recv(100):
                    client.sendall(said)
        except OSError:
            connection.close()

    def close(self) -> None:
        self._listener.close()

    def connect(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        return context.wrap_socket(socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S))

    def shown(self) -> int:
        """Return the number of the certificate that a new connection is shown."""
        with self.connect(unverified_context()) as client:
            shown = client.getpeercert(binary_form=True)
            assert shown is not None
            return serial_of(shown)


@pytest.fixture
def echo() -> Iterator[Callable[[ServerTls], Echo]]:
    servers: list[Echo] = []

    def start(tls: ServerTls) -> Echo:
        servers.append(Echo(tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_a_renewed_certificate_is_shown_without_a_dropped_connection(
    files: Files, echo: Callable[[ServerTls], Echo]
) -> None:
    first = files.write(*certificate())
    tls = ServerTls(files.certificate, files.key)
    server = echo(tls)
    with server.connect(unverified_context()) as before:
        before.sendall(b"before")
        assert before.recv(100) == b"before"
        second = files.write(*certificate())
        assert server.shown() == first  # not looked at yet
        assert tls.look()
        assert server.shown() == second
        before.sendall(b"after")
        assert before.recv(100) == b"after"
    assert not tls.look()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: certificate(valid_until=NOW - DAY), "has expired on"),
        (lambda: (certificate()[0], certificate()[1]), "are not used: "),
        (lambda: (certificate()[0], locked_key()), "are not used: "),
        (lambda: (b"", certificate()[1]), "PEM"),
        (lambda: (b"nonsense", b"nonsense"), "PEM"),
        (lambda: (certificate()[0], b""), "are not used: "),
    ],
    ids=["expired", "of another key", "key with a password", "empty", "no certificate", "no key"],
)
def test_files_that_cannot_be_used_change_nothing(
    files: Files, echo: Callable[[ServerTls], Echo], bad: Callable[[], tuple[bytes, bytes]], says: str
) -> None:
    first = files.write(*certificate())
    tls = ServerTls(files.certificate, files.key)
    server = echo(tls)
    files.write(*bad())
    with structlog.testing.capture_logs() as logs:
        assert not tls.look()
        assert not tls.look()  # said once
    assert [(each["log_level"], says in each["reason"]) for each in logs] == [("error", True)]
    assert server.shown() == first
    second = files.write(*certificate())
    assert tls.look()
    assert server.shown() == second


def test_files_that_are_gone_change_nothing(files: Files, echo: Callable[[ServerTls], Echo]) -> None:
    first = files.write(*certificate())
    tls = ServerTls(files.certificate, files.key)
    server = echo(tls)
    files.key.unlink()
    assert not tls.look()
    assert server.shown() == first
    second = files.write(*certificate())
    assert tls.look()
    assert server.shown() == second


def test_no_version_before_1_2_is_spoken(files: Files, echo: Callable[[ServerTls], Echo]) -> None:
    files.write(*certificate())
    server = echo(ServerTls(files.certificate, files.key))
    for version, is_taken in (
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ):
        context = unverified_context()
        context.set_ciphers("ALL:@SECLEVEL=0")  # else it is our own side that refuses
        context.minimum_version = context.maximum_version = version
        try:
            server.connect(context).close()
        except ssl.SSLError:
            assert not is_taken
        else:
            assert is_taken


def test_a_server_does_not_start_without_its_certificate(files: Files) -> None:
    with pytest.raises(CertificateError, match="No such file"):
        ServerTls(files.certificate, files.key)
    files.write(certificate()[0], certificate()[1])
    settings = Settings(tls_certificate=str(files.certificate), tls_key=str(files.key))
    with pytest.raises(SettingsError, match=r"EXCHANGE_TLS_CERTIFICATE, EXCHANGE_TLS_KEY: .* are not used"):
        ServerTls.of(settings)
    assert ServerTls.of(Settings()) is None


def test_an_expired_one_is_served_after_a_start_and_said_as_an_error(
    files: Files, echo: Callable[[ServerTls], Echo]
) -> None:
    expired = files.write(*certificate(valid_until=NOW - DAY))
    with structlog.testing.capture_logs() as logs:
        tls = ServerTls(files.certificate, files.key)
    assert [each["log_level"] for each in logs] == ["error", "info"]
    assert echo(tls).shown() == expired


@pytest.mark.parametrize("one", ["EXCHANGE_TLS_CERTIFICATE", "EXCHANGE_TLS_KEY"])
def test_a_certificate_needs_its_key(one: str) -> None:
    with pytest.raises(SettingsError, match="EXCHANGE_TLS_CERTIFICATE, EXCHANGE_TLS_KEY: both, or none"):
        load_settings({one: "/etc/exchange/x.pem"})


def test_urls_say_that_there_is_tls() -> None:
    settings = Settings(tls_certificate="c", tls_key="k")
    assert (settings.rest_url(), settings.ws_url()) == ("https://127.0.0.1:8000", "wss://127.0.0.1:8001")
    assert settings.frontend_url() == "https://127.0.0.1:3000"
    assert all(origin.startswith("https://") for origin in settings.browser_origins())


def test_clients_on_this_machine_trust_the_very_certificate_and_no_other(
    files: Files, tmp_path: Path, echo: Callable[[ServerTls], Echo]
) -> None:
    files.write(*certificate())
    tls = ServerTls(files.certificate, files.key)
    server = echo(tls)
    (tmp_path / "other").mkdir()
    other = Files(tmp_path / "other")
    other.write(*certificate())
    stranger = echo(ServerTls(other.certificate, other.key))
    trust = LocalTrust(files.certificate)
    with closing(server.connect(trust.context)):
        pass
    with pytest.raises(ssl.SSLCertVerificationError):
        stranger.connect(trust.context)
    files.write(*certificate())
    assert tls.look()
    with pytest.raises(ssl.SSLCertVerificationError):
        server.connect(trust.context)
    trust.refresh()
    with closing(server.connect(trust.context)):
        pass
