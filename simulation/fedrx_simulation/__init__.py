"""Synthetic sites, and engines that run server and client on one machine."""
