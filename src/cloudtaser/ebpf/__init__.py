"""The node agent: kernel enforcement round protected processes (docs/ebpf.md)."""
