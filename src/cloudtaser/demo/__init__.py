"""The demo: every part on one machine, with a stand-in for what cannot run here (the API server)."""
