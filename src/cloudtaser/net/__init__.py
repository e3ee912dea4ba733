"""The thin asyncio side of the protocols: TLS, dialling, tunnels, splices, running until a signal."""
