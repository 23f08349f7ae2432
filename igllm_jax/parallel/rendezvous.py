"""Who is there, asked before JAX starts: its own start, where one process is missing, aborts the others without a name.

Process 0 listens at the coordinator's port until everybody has said who they are, and lets go of it for JAX.
"""

import json
import socket
import time
from contextlib import suppress

from igllm_jax.errors import UserError

RETRY_SECONDS = 0.2
EVERYBODY = "everybody is here"


def wait_for_all(coordinator: str, count: int, own: int, seconds: float) -> None:
    """Waits until `count` processes are here. coordinator: HOST:PORT of process 0. own: this process's number.

    Raises: UserError, in every process that came, naming those that did not come within `seconds`.
    """
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + seconds
    if count == 1:
        return
    if own:
        _come(host.strip("[]"), int(port), own, deadline, seconds)
    else:
        _await_all(coordinator, int(port), count, deadline, seconds)


def _await_all(coordinator: str, port: int, count: int, deadline: float, seconds: float) -> None:
    guests: dict[int, tuple[str, socket.socket]] = {}
    try:
        with _listen(port) as server:
            while len(guests) < count - 1 and (left := deadline - time.monotonic()) > 0:
                server.settimeout(left)
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    break
                if hello := _hello(connection, count):
                    guests[hello[0]] = (hello[1], connection)
        missing = [process for process in range(1, count) if process not in guests]
        answer = EVERYBODY
        if missing:
            hosts = {0: socket.gethostname()} | {process: guests[process][0] for process in sorted(guests)}
            here = ", ".join(f"process {process} on {name}" for process, name in hosts.items())
            answer = (
                f"waited {seconds:g} s at {coordinator} in vain for process {', '.join(map(str, missing))} of {count}; "
                f"here: {here}. Were all started, with the same --coordinator and --num_processes?"
            )
        for _, connection in guests.values():
            _tell(connection, answer)
    finally:
        for _, connection in guests.values():
            connection.close()
    if missing:
        raise UserError(answer)


def _listen(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise UserError(f"port {port} of the coordinator can't be opened ({error.strerror}); choose another") from None


def _hello(connection: socket.socket, count: int) -> tuple[int, str] | None:
    """Number and host of who connected; None, and closed, for one that is none of ours."""
    connection.settimeout(5)
    try:
        said = json.loads(connection.makefile("r").readline(1000))
        process, host = int(said["process"]), str(said["host"])
    except (OSError, ValueError, KeyError, TypeError):
        process, host = 0, ""
    if 0 < process < count:
        return process, host
    connection.close()
    return None


def _tell(connection: socket.socket, answer: str) -> None:
    with suppress(OSError):  # one that died while it waited: JAX's start is where that shows
        connection.sendall(answer.encode() + b"\n")


def _come(host: str, port: int, own: int, deadline: float, seconds: float) -> None:
    hello = json.dumps({"process": own, "host": socket.gethostname()}).encode() + b"\n"
    answer = reason = ""
    while not answer and time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=max(deadline - time.monotonic(), 0.1)) as connection:
                connection.sendall(hello)
                connection.settimeout(max(deadline - time.monotonic(), 0) + 10)  # process 0 may have begun later
                answer = connection.makefile("r").readline().strip()
        except OSError as error:
            reason = f" ({error.strerror or error})"
        if not answer:
            time.sleep(RETRY_SECONDS)
    if not answer:
        raise UserError(
            f"process {own} waited {seconds:g} s in vain for process 0 at {host}:{port}{reason}: "
            "is it up, and the port open?"
        )
    if answer != EVERYBODY:
        raise UserError(answer)
