"""The payload's package `encodings`: empty.

The interpreter imports it before it raises the first UnicodeDecodeError, and without it raises
ModuleNotFoundError instead. UTF-8 and ASCII, all that the wrapper uses, are in its core.
"""
