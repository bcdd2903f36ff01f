"""A server that accepts S3 uploads as fast as it can and discards them. `python -m bench.s3_sink` prints its address.

If the argument is the file of a certificate for localhost, with `key.pem` in the same folder, the server uses TLS.

It supports only multipart uploads, so that a benchmark measures the sender.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from pathlib import Path

_CREATED = b"<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>1</UploadId>" + (
    b"</InitiateMultipartUploadResult>"
)
_COMPLETED = b'<CompleteMultipartUploadResult><ETag>"1"</ETag></CompleteMultipartUploadResult>'
_BUFFER_BYTES = 1 << 20


def main(certificate: str | None = None) -> None:
    """Serves until the process is killed."""
    server = socket.create_server(("127.0.0.1", 0))
    scheme = "http" if certificate is None else "https"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, Path(certificate).with_name("key.pem"))
        server = context.wrap_socket(server, server_side=True)
    print(f"{scheme}://localhost:{server.getsockname()[1]}", flush=True)
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_serve, args=(connection,), daemon=True).start()


def _serve(connection: socket.socket) -> None:
    buffer = bytearray(_BUFFER_BYTES)
    view = memoryview(buffer)
    held = b""
    with connection:
        while True:
            while b"\r\n\r\n" not in held:
                count = connection.recv_into(buffer, 64 << 10)
                if not count:
                    return
                held += bytes(view[:count])
            head, _, held = held.partition(b"\r\n\r\n")
            left = _length(head) - len(held)
            held = b""
            while left > 0:
                left -= connection.recv_into(buffer, min(left, _BUFFER_BYTES))
            connection.sendall(_answer(head))


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _answer(head: bytes) -> bytes:
    method, target, _ = head.split(b"\r\n")[0].split(b" ")
    body = b"" if method != b"POST" else _CREATED if b"?uploads" in target else _COMPLETED
    return b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: %d\r\n\r\n%s' % (len(body), body)


if __name__ == "__main__":
    main(*sys.argv[1:])
