"""cloudtaser: secrets from an OpenBao hosted in the EU, straight into process memory.

Imports nothing, so that each program loads only what it needs (the wrapper, nearly nothing).
"""
