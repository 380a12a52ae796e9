"""Whether another host of this network answers."""

import socket

PORT = 22  # where something listens as a rule; a host that refuses the connection is there, too
ANSWER = 3.0  # seconds that it has to answer


def answers(host: str) -> bool:
    """Whether a host answers at all; True where its name says nothing here."""
    try:
        socket.create_connection((host, PORT), timeout=ANSWER).close()
    except (ConnectionRefusedError, ConnectionResetError, socket.gaierror):
        return True
    except OSError:
        return False
    return True
