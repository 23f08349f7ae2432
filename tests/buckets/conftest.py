"""Servers of buckets, and an address of each test's own."""

from tests.buckets.servers import gcs, gcs_server, s3, s3_server  # noqa: F401  fixtures
