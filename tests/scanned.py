"""A wrapper whose memory is searched for what it handed over; OpenBao is real, behind a TLS server that notes
the tokens it gives out.
"""

from __future__ import annotations

import sys

from tests.integration.wrapper_vault import QUICK, Vault
from tests.memory_scan import copies, scan
from tests.tls_tap import Tap
from tests.unit.wrapper.launch import PREFIX, Wrapped, wait_for_state

SECRET_DATA = "secret/data/scanned"
LIMITED = """
import ctypes, os, resource, sys
ctypes.CDLL(None).prctl(24, 14, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_IPC_LOCK: then limits are meant
resource.setrlimit(resource.RLIMIT_MEMLOCK, (int(sys.argv[1]), int(sys.argv[1])))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Scanned:
    """What is looked for: values by name, the JWT, and every token that the tap saw."""

    def __init__(self, vault: Vault, tap: Tap, prefix: list[str] = PREFIX) -> None:
        self.vault = vault
        self.prefix = prefix
        self.tap = tap
        self.values: dict[str, str] = {}
        self._puts = 0

    def settings(self, paths: str = SECRET_DATA, env_map: str = "", **more: str) -> dict[str, str]:
        """Without looks at versions, which would overwrite what a careless start leaves; see `quick`."""
        settings = self.vault.settings(paths, env_map, **more)
        return settings | {"VAULT_ADDR": self.tap.address, "VAULT_CACERT": self.tap.ca_file}

    def quick(self, paths: str = SECRET_DATA, env_map: str = "", **more: str) -> dict[str, str]:
        """With looks at versions three times a second."""
        return self.settings(paths, env_map, **QUICK, **more)

    def start(self, *command: str, settings: dict[str, str], prefix: list[str] | None = None) -> Wrapped:
        return Wrapped(*command, settings=settings, prefix=prefix or self.prefix)

    def limited(self, limit: int) -> list[str]:
        """How to start the wrapper without privilege, under that RLIMIT_MEMLOCK in bytes."""
        return [sys.executable, "-I", "-S", "-c", LIMITED, str(limit), *self.prefix]

    def put(self, path: str = SECRET_DATA, **values: str) -> None:
        self.vault.put(path, **values)
        self._puts += 1
        self.values |= {f"{name} {self._puts}": value for name, value in values.items()}

    def secrets(self) -> dict[str, str]:
        jwt = (self.vault.directory / "token").read_text().strip()
        _, payload, signature = jwt.split(".")
        tokens = {f"token {number}": token for number, token in enumerate(self.tap.tokens())}
        return self.values | tokens | {"JWT payload": payload, "JWT signature": signature}

    def assert_clean(self, wrapped: Wrapped) -> None:
        wait_for_state(wrapped.process.pid, "S")  # in its poll, with everything done
        traces = scan(wrapped.process.pid, self.secrets())
        assert not traces, "\n".join(map(str, traces[:20]))

    def copies_in(self, pid: int, name: str) -> int:
        """How often the first bytes of a value are in a process's memory."""
        return copies(pid, self.values[name])
