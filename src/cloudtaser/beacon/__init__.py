"""The beacon: a stateless rendezvous that pairs outbound connections by hash and relays ciphertext."""
