"""The wrapper loads nothing but itself and what is compiled into or beside the interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.unit.wrapper.launch import SOURCE

PROBE = """
import sys
before = set(sys.modules)
sys.path.insert(0, {source!r})
import posix
for name in sorted(posix.listdir({source!r} + "/cloudtaser/wrapper")):
    if name.endswith(".py") and not name.startswith("__"):
        __import__("cloudtaser.wrapper." + name[:-3])
from cloudtaser.wrapper.config import bridge_server_name
bridge_server_name("-----BEGIN CERTIFICATE-----MAMCAQU=-----END CERTIFICATE-----")
files = {{}}
for name, module in sys.modules.items():
    if name not in before:
        files[name] = getattr(getattr(module, "__spec__", None), "origin", None) or ""
print("\\n".join(name + "=" + origin for name, origin in files.items()))
"""


def loaded() -> dict[str, str]:
    """Every module that the wrapper's own modules bring in, and where each comes from."""
    code = PROBE.format(source=str(SOURCE))
    output = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    return dict(line.split("=", 1) for line in output.splitlines())


def test_every_module_is_our_own_or_c() -> None:
    modules = loaded()
    assert "cloudtaser.wrapper.session" in modules
    ours = str(SOURCE / "cloudtaser")
    strangers = {
        name: origin
        for name, origin in modules.items()
        if not origin.startswith(ours)
        and origin not in ("built-in", "frozen")
        and Path(origin).suffix != ".so"
    }
    assert strangers == {}
    assert not {"os", "re", "enum", "json", "socket", "ssl", "typing", "dataclasses", "__future__"} & set(
        modules
    )


def test_a_plain_init_never_loads_tls() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(SOURCE)!r})
import posix
real = posix._exit
def report(code):
    posix.write(2, repr(sorted(sys.modules)).replace("'", '"').encode())
    real(code)
from cloudtaser.wrapper import app
app.posix = type(sys)("posix"); app.posix.__dict__.update(posix.__dict__); app.posix._exit = report
app.main()
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, "--", "true"],
        capture_output=True,
        text=True,
        env={},
        check=True,
    )
    names = json.loads(done.stderr)
    assert "cloudtaser.wrapper.supervisor" in names
    assert not {"_ssl", "_socket", "cloudtaser.wrapper.session", "cloudtaser.version"} & set(names)
