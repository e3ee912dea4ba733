"""The token method in a cluster: one world for all of it, made once."""
