"""A proxy for CONNECT on loopback, as a hospital has one: it alone knows where a name leads."""

import socket
import threading
from base64 import b64decode
from contextlib import suppress


class ConnectProxy:
    """Passes every tunnel on to one port of 127.0.0.1, and keeps what it was asked.

    Args:
        port: Where tunnels lead; whoever asks for another gets 403.
        user: `name:password` that must be shown; empty for none.
    """

    def __init__(self, port: int, user: str = "") -> None:
        self._port, self._user = port, user
        self.asked: list[str] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        # Else the thread would stay in accept.
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        head = b""
        with client:
            while b"\r\n\r\n" not in head:
                part = client.recv(4096)
                if not part:
                    return
                head += part
            line, *fields = head.decode().split("\r\n")
            self.asked.append(line)
            shown = [f.partition("Basic ")[2] for f in fields if f.startswith("Proxy-Auth")]
            if self._user and [b64decode(one).decode() for one in shown] != [self._user]:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
            if not line.startswith("CONNECT ") or not line.split()[1].endswith(f":{self._port}"):
                client.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", self._port)) as there:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_pipe, args=(there, client), daemon=True)
                back.start()
                _pipe(client, there)
                back.join()


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(2**16):
            target.sendall(part)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
