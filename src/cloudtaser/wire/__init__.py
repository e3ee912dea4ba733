"""Protocols as pure state machines: bytes in, events and bytes out; no socket, no clock (spec/wire.md)."""
