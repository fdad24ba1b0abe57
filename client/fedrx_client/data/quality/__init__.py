"""What a site's data look like before they are used: the account of reading, rules, and a page.

Everything here is for the site alone: no number of it may leave. Nothing here changes a value.
"""
