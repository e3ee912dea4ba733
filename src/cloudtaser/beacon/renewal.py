"""Renewal: the beacon takes up a new certificate, and keeps the old one where the new is bad.

Made by `server`, which calls `poll` at every sweep and `reload` at SIGHUP. The files are read by `tls`.
"""

from __future__ import annotations

from cloudtaser.beacon.log import Log
from cloudtaser.beacon.metrics import Counts
from cloudtaser.beacon.tls import Certificate
from cloudtaser.errors import CloudtaserError


class Renewal:
    """Looks every `interval` seconds (monotonic) whether the files of `certificate` changed."""

    def __init__(self, certificate: Certificate, interval: float, counts: Counts, log: Log) -> None:
        self._certificate = certificate
        self._interval = interval
        self._counts = counts
        self._log = log
        self._next = 0.0
        self._failure = ""

    def reload(self) -> None:
        """Read the certificate again, changed or not."""
        try:
            self._certificate.reload()
        except CloudtaserError as error:
            self._failed(error)
        else:
            self._done()

    def poll(self, now: float) -> None:
        """Read it again if it is time to look and the files changed."""
        if now < self._next:
            return
        self._next = now + self._interval
        try:
            if self._certificate.reload_if_changed():
                self._done()
        except CloudtaserError as error:
            self._failed(error)

    def _done(self) -> None:
        self._failure = ""
        self._counts.reloads["ok"] += 1
        self._log.info("certificate read again", certificate_ends=int(self._certificate.not_after))

    def _failed(self, error: CloudtaserError) -> None:
        self._counts.reloads["failed"] += 1
        if str(error) != self._failure:  # it is tried at every poll, and told once
            self._failure = str(error)
            self._log.error("the new certificate cannot be used; the old one stays", reason=str(error))
