"""Private training: functions of weights, resident tensors and a round's randomness.

Nothing here reads a file, keeps an account or contacts the coordinator.
"""
