"""cloudtaser-cli: the whole life cycle from a workstation or CI."""
