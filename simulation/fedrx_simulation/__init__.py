"""Synthetic sites, and engines that run the real server and client on one machine.

The only room that may fix a seed.
"""
