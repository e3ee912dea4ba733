"""The admission webhooks: pods that ask for secrets get the wrapper, and what could never work is said at
once.

`service.Webhook` is the door: frozen `settings`, `ports` to the rest of the operator, and an aiohttp
application (spec/operator.md, "Webhook"). Everything between an AdmissionReview and its answer is pure,
except the one question to an image's registry.
"""
