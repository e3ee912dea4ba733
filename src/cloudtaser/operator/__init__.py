"""The operator: enrolment of a cluster, and the broker that carries the pods' ciphertext to the bridge."""
