"""An open-loop load generator: arrivals are fixed beforehand, and latency counts from when a
request was due.
"""
