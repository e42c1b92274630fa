"""One question a module: ``estimate_s(run)`` says how long it takes, ``measure(run)`` answers
it.
"""
