"""The wrapper: PID 1 that fetches secrets and hands them to an unchanged application."""
