"""The coordinator: rounds, aggregation, run folders, reports, its consortium and its gateway.

The server never imports the client.
"""
