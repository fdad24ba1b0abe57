"""What crosses the wire, and nothing else; imports neither Flower nor torch."""
