"""Controllers: what the operator does about its custom resources, and for whom it keeps them in memory.

`assembly` makes all of them; `manager_container` runs it. Every controller is `run(stop)`, level-triggered
and idempotent: two leaders at once, for the moment that a lease allows, write the same thing twice.
"""
