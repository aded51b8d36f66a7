"""The package that each scheme of object storage needs, by the name under which it is installed."""

from __future__ import annotations

PACKAGES = {
    "gs": "gcsfs",
    "s3": "s3fs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "adl": "adlfs",
    "hf": "huggingface_hub",
    "hdfs": "pyarrow",
    "oci": "ocifs",
    "oss": "ossfs",
}
