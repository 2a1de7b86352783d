"""What the load does with a connection that its server has closed."""

import socket
import threading

from lab.chaos.http_connection import HttpConnection

TIMEOUT_S = 60


async def test_a_connection_that_has_ended_is_not_used_again() -> None:
    """Though the loop was busy and does not know it yet: a request on it would be lost."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = threading.Event()

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1_000)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                closed.set()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        client = HttpConnection([("127.0.0.1", listener.getsockname()[1])])
        request = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
        assert (await client.ask(request, TIMEOUT_S)).status == 200
        assert closed.wait(TIMEOUT_S)  # without a turn of the loop
        assert (await client.ask(request, TIMEOUT_S)).status == 200
        server.join(TIMEOUT_S)
        client.close()
