"""The bridge: beside OpenBao, outbound only; ends the pods' TLS, checks their tokens, forwards to OpenBao."""
