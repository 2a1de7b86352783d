"""Connections with separate source addresses, so that clients on one machine look like separate networks."""

import itertools
import socket
from contextlib import AbstractContextManager
from typing import Any, Final
from urllib.parse import urlsplit

import gevent.socket
from geventhttpclient.client import HTTPClient, HTTPClientPool
from geventhttpclient.connectionpool import ConnectionPool
from websockets.sync.client import ClientConnection, connect

from loadtests.trading import source_address

TIMEOUT_S: Final = 30
CONNECTIONS: Final = 2
"""One more than a user needs: a request that is ended half-way never gives its connection back."""
_numbers = itertools.count()


class _BoundConnections(ConnectionPool):
    def __init__(self, address: str, host: str, port: int) -> None:
        super().__init__(
            host, port, host, port, size=CONNECTIONS, connection_timeout=TIMEOUT_S, network_timeout=TIMEOUT_S
        )
        self._address = address

    def _create_tcp_socket(self, family: int, socktype: int, protocol: int) -> gevent.socket.socket:
        client = super()._create_tcp_socket(family, socktype, protocol)
        client.bind((self._address, 0))
        return client


class BoundClients(HTTPClientPool):
    """Locust's HTTP client for one user, with its own source address if the exchange is on this machine."""

    def __init__(self) -> None:
        super().__init__(concurrency=CONNECTIONS, connection_timeout=TIMEOUT_S, network_timeout=TIMEOUT_S)
        self._number = next(_numbers)

    def get_client(self, url: Any) -> HTTPClient:
        """Return the client for the host of `url`."""
        client = super().get_client(url)
        pool = client._connection_pool
        address = source_address(client.host, self._number)
        if address and not isinstance(pool, _BoundConnections):
            client._connection_pool = _BoundConnections(address, client.host, client.port or 80)
        return client


def connect_socket(url: str) -> AbstractContextManager[ClientConnection]:
    """Return a WebSocket with its own source address, as a context manager."""
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    address = source_address(host, next(_numbers))
    bound = socket.create_connection((host, port), TIMEOUT_S, (address, 0)) if address else None
    return connect(url, sock=bound, compression=None, proxy=None, open_timeout=TIMEOUT_S, max_queue=None)
