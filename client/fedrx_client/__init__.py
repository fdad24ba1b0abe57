"""The hospital site: data in, private training, ledger; only masked vectors leave.

The client never imports the server.
"""

import os

# MKL's products of few columns otherwise round a row by its place among the rows, so that a patient
# who leaves would change the others' last digits. Read at MKL's first product; costs no time.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
