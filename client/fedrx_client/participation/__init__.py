"""One hospital's part in a study: permission, check, computation, record, mask, answer.

Nothing leaves the site by another way than this.
"""
