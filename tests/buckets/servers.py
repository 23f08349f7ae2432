"""Real servers of buckets on this machine, each in a process of its own: Google's protocol and Amazon's."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BUCKET = "bucket"
GCS = [str(Path(__file__).with_name("gcs_server.py")), "{port}"]
_S3 = ["-c", "from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"]
S3_ACCOUNT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def started(program: list[str]) -> Iterator[str]:
    """The address of a server that runs meanwhile."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, *(word.format(port=port) for word in program)], **quiet)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while not _answers(address):
            assert process.poll() is None and time.monotonic() < until, "the server did not start"
            time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """These variables, for this process and those that it starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def gcs_variables(address: str) -> dict[str, str]:
    """Which server gcsfs and tensorstore take for Google's; and a token, so that nobody looks for one elsewhere."""
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    }


def _skip_without(*packages: str) -> None:
    """Nothing is imported: what gcsfs asks servers for is settled at its import, which is the product's to do."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[str]:
    """The address of a server with Google's protocol."""
    _skip_without("gcsfs", "gcp_storage_emulator")
    with started(GCS) as address:
        yield address


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server with Amazon's protocol."""
    _skip_without("s3fs", "moto", "flask_cors")
    with started(_S3) as address:
        urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=30).close()
        yield address


@pytest.fixture(scope="module")
def gcs(gcs_server: str) -> Iterator[str]:
    """`gs://bucket`, on a server of our own."""
    with environment(gcs_variables(gcs_server)):
        yield f"gs://{BUCKET}"


@pytest.fixture(scope="module")
def s3(s3_server: str) -> Iterator[str]:
    """`s3://bucket`, on a server of our own."""
    with environment({**S3_ACCOUNT, "AWS_ENDPOINT_URL": s3_server}):
        yield f"s3://{BUCKET}"


@contextlib.contextmanager
def faults(server: str, *found: dict[str, Any]) -> Iterator[None]:
    """What the server of `gcs_server` does wrong meanwhile (see gcs_server.py)."""
    _set_faults(server, *found)
    try:
        yield
    finally:
        _set_faults(server)


def _set_faults(server: str, *found: dict[str, Any]) -> None:
    request = urllib.request.Request(f"{server}/faults", data=json.dumps(found).encode(), method="PUT")
    urllib.request.urlopen(request, timeout=30).close()
