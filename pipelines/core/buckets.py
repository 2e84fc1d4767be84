"""Object stores keep files in buckets, which are made on purpose: a typing error must not make one."""

from __future__ import annotations

import fsspec

OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "tos"}  # fsspec's names


def is_object_store(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether the first part of a path there is a bucket."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return not OBJECT_STORES.isdisjoint(protocols)


def missing_bucket(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """The bucket of ``path``, if it is surely not there, else ``""``: who may not look may write all the same."""
    bucket = path.strip("/").partition("/")[0]
    return bucket if is_object_store(fs) and not _is_there(fs, bucket) else ""


def _is_there(fs: fsspec.AbstractFileSystem, bucket: str) -> bool:
    if not hasattr(fs, "call_s3"):
        return bool(fs.exists(bucket))
    try:
        fs.call_s3("head_bucket", Bucket=bucket)  # s3fs's own `exists` says no to 403, too
    except FileNotFoundError:
        return False
    except Exception:  # not allowed to look, another region, not reached: writing says what it is
        return True
    return True
