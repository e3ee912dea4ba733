"""The version of this distribution, spelled once; `tests/unit/test_version.py` holds it to pyproject.toml."""

VERSION = "0.1.0"
