"""Runs a Python program with a copy of every elliptic-curve key that it makes in a file, so that a test can
look for them: `python tests/known_keys.py FILE -m MODULE ARGUMENT…` or `… FILE SCRIPT ARGUMENT…`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def main() -> None:
    """Patch the making of keys, then run the program as if it had been started itself."""
    keys = Path(sys.argv[1])
    real = ec.generate_private_key

    def generate(curve: ec.EllipticCurve, backend: Any = None) -> ec.EllipticCurvePrivateKey:
        key = real(curve, backend)
        with keys.open("ab") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return key

    ec.generate_private_key = generate
    if sys.argv[2] == "-m":
        module, sys.argv = sys.argv[3], sys.argv[3:]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = sys.argv[2:]
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
