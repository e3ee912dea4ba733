"""What an image would start: its entrypoint, command and user, read from its registry.

The webhook asks `Entrypoints` for a container that names no command of its own (spec/operator.md, "Original
command"). Only manifests and configurations are read, never a layer.
"""
