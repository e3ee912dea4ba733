"""The wrapper: PID 1 that fetches secrets and hands them to an unchanged application.

It imports nothing but itself and modules that are compiled into or beside the interpreter, so that it
starts in milliseconds and fits a payload of a few megabytes (spec/wrapper.md "How it is built"). That
leaves out `typing`, `dataclasses`, `enum` and `from __future__`: annotations are evaluated, or quoted.
"""
