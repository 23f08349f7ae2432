"""Who is there before JAX starts, and who is named where somebody is not."""

import json
import socket
import threading
import time

import pytest

from igllm_jax.errors import UserError
from igllm_jax.parallel.rendezvous import wait_for_all


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def together(numbers, count, port, seconds, delay=0.0):
    """Number -> how its meeting ended: "all came", or the error. Process 0 comes `delay` seconds after the others."""
    ends = {}

    def one(number):
        time.sleep(0 if number else delay)
        try:
            wait_for_all(f"127.0.0.1:{port}", count, number, seconds)
            ends[number] = "all came"
        except UserError as error:
            ends[number] = str(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return ends


@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_all_meet_and_the_port_is_free_again(delay):
    port = free_port()
    for _ in range(2):
        assert together(range(4), 4, port, 20, delay) == dict.fromkeys(range(4), "all came")
    with socket.create_server(("", port)):
        pass


def test_one_alone_waits_for_nobody():
    wait_for_all("nowhere.invalid:1", 1, 0, 0)


def test_everybody_names_who_is_missing():
    port = free_port()
    ends = together([0, 2], 4, port, 1.5)
    wanted = (
        f"waited 1.5 s at 127.0.0.1:{port} in vain for process 1, 3 of 4; "
        f"here: process 0 on {socket.gethostname()}, process 2 on {socket.gethostname()}."
    )
    assert set(ends) == {0, 2} and all(end.startswith(wanted) for end in ends.values()), ends


def test_without_process_0_the_others_name_it():
    port = free_port()
    ends = together([1], 2, port, 0.7)
    assert ends[1].startswith(f"process 1 waited 0.7 s in vain for process 0 at 127.0.0.1:{port} (Connection refused)")


def test_strangers_are_sent_away():
    port = free_port()
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", json.dumps({"process": 7, "host": "h"}).encode() + b"\n"):
        host = threading.Thread(target=together, args=([0], 2, port, 5))
        host.start()
        time.sleep(0.3)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
            stranger.sendall(said)
            stranger.settimeout(5)
            assert stranger.recv(100) == b""
        assert together([1], 2, port, 5) == {1: "all came"}
        host.join(10)


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert together([0], 2, port, 5)[0].startswith(
            f"port {port} of the coordinator can't be opened (Address already"
        )
