"""Ports of 127.0.0.1 for the servers of tests."""
import socket

_held = []


def free_port(port=0):
    """One that nobody else is given while this process lives (or this one, which is free now).
    Connections to it are refused until a server listens, which has to have SO_REUSEADDR or, as our
    user, SO_REUSEPORT."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(('127.0.0.1', port))
    _held.append(held)
    return held.getsockname()[1]
