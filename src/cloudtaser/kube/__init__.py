"""Kubernetes: a small API client for what operator and bridge ask of an API server."""
