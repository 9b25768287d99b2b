"""Who is let in: CURVE on every connection, with a list of the client keys that are allowed.

CURVE alone lets in everyone who knows the server's public key; the list makes the client's secret key,
which only the connection file holds, the thing that counts.
"""

from __future__ import annotations

import logging

import zmq
from zmq.auth.thread import ThreadAuthenticator

from backend.protocol.connection import new_key_pair

# ZeroMQ asks for the list of this name (RFC 27, ZAP).
DOMAIN = "mgcface"


class Keys:
    """Fresh keys for one run of the server."""

    def __init__(self) -> None:
        self.server_public, self.server_secret = new_key_pair()
        self.client_public, self.client_secret = new_key_pair()

    # The name and the signature are pyzmq's (zmq.auth.Authenticator.configure_curve_callback).
    def callback(self, domain: str, key: bytes) -> bool:
        return key == self.client_public.encode("ascii")

    def guard(self, socket: zmq.Socket, context: zmq.Context) -> ThreadAuthenticator:
        """Close ``socket`` to everyone without the client key; call before it binds. Stop the result at the end."""
        # Refusals are ordinary here (any program may knock); pyzmq logs each as an error.
        quiet = logging.getLogger("mgcface.zap")
        quiet.setLevel(logging.CRITICAL)
        authenticator = ThreadAuthenticator(context, log=quiet)
        authenticator.start()
        authenticator.configure_curve_callback(domain=DOMAIN, credentials_provider=self)
        socket.curve_server = True
        socket.curve_publickey = self.server_public.encode("ascii")
        socket.curve_secretkey = self.server_secret.encode("ascii")
        socket.zap_domain = DOMAIN.encode("ascii")
        return authenticator
