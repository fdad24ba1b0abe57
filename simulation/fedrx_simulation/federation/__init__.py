"""A whole federation in one process: sites, faults, and the engines that carry their messages.

The protocol is the real one; only the transport differs.
"""
