"""Our own entry to Flower's SuperLink: few calls an exchange, and an owner for each object."""
