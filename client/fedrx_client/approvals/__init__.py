"""What a site has agreed to: signed approvals and the study files behind them.

An approval is read and verified before every answer, never cached.
"""
