"""The token method: sealed wrappers announce a key, and get a token of their own pod's, sealed for it.

`method.TokenMethod` is what a program wires; `ports` says what it needs of the rest of the operator.
Announcements are heard by every replica, tokens are kept (renewed, and revoked when their pod is gone) by the
leader alone; docs/decisions/0030 says why.
"""
