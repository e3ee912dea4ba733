"""The C extension `_cloudtaser` (native/), where it is there: in the payload always, elsewhere once compiled.

Whoever uses it looks at `PRESENT` first and has a way in Python for where it is missing: secrets are then in
ordinary memory, which the protection score says.
"""

__all__ = ["PRESENT", "native"]

PRESENT = True
try:
    import _cloudtaser as native
except ImportError:
    native = None  # type: ignore[assignment]  # `PRESENT` is looked at first
    PRESENT = False
