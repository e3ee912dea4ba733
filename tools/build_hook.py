"""The wheel's build: compiles the node agent's programs first, where clang is; named in pyproject.toml."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildHook(BuildHookInterface[Any]):
    """Called by hatchling for every wheel, an editable one too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Without clang the wheel has no programs, and the agent says so."""
        command = [sys.executable, str(Path(self.root) / "tools/guard.py"), "--if-possible"]
        subprocess.run(command, check=True)
