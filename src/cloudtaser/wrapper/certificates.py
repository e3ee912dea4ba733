"""What to do about a server certificate that is refused: `connection` adds it to the refusal.

OpenSSL names the reason, but not whose certificate it means. An authority that has come to its end looks like
a server's certificate that has, and the two are mended at different places.
"""

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _ssl

# OpenSSL's x509_vfy.h
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_ISSUERS = (7, 18, 19, 20, 21)  # 7: one of the same name, as before a rotation
_WRONG_NAMES = (62, 64)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def fix(code: int, context: "_ssl._SSLContext", source: str, now: float | None = None) -> str:
    """The fix for a verification error; `source` is where the trusted authorities came from."""
    if code == _NOT_YET_VALID:
        return "the clocks of this machine and of the server differ: set both by NTP"
    if code == _EXPIRED:
        ended = _first_end(context)
        if ended and _before(ended, time.time() if now is None else now):
            return f"the authority in {source} itself ended at {ended}: set the current one"
        return "renew the server's certificate, or set this machine's clock"
    if code in _UNKNOWN_ISSUERS:
        return f"{source} does not hold the authority that signed it"
    if code in _WRONG_NAMES:
        return "the address is not one that the certificate is made for"
    return ""


def _first_end(context: "_ssl._SSLContext") -> str:
    """When the first of few trusted authorities ends; "" for a system's whole bundle."""
    ends = [str(certificate.get("notAfter", "")) for certificate in context.get_ca_certs(False)]
    return min(ends, key=_fields) if 0 < len(ends) <= 4 else ""


def _before(end: str, now: float) -> bool:
    return _fields(end) < tuple(time.gmtime(now)[:6])


def _fields(end: str) -> tuple[int, ...]:
    """Year to second of `Nov  9 14:48:19 2026 GMT`; far in the future for anything else."""
    try:
        month, day, clock, year, _ = end.split()
        hour, minute, second = map(int, clock.split(":"))
        return int(year), _MONTHS.index(month) + 1, int(day), hour, minute, second
    except ValueError:
        return (9999,)
