"""The hospital site: data in, private training, ledger; only masked vectors leave.

The client never imports the server.
"""
