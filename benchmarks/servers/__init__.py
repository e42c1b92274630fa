"""The servers that are compared: the same work behind each, each started as ``python -m
benchmarks.servers.<name> <port>``.
"""
