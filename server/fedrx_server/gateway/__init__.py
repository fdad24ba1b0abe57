"""Our own entry to Flower's SuperLink: few calls an exchange, and an owner for each object.

It moves bytes and reads no message's meaning.
"""
