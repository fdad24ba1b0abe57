"""Texts for property tests: any that the rule of `fedrx_common.text` lets in, and any at all."""

import unicodedata

from hypothesis import strategies as st

from fedrx_common.text import fault_in

_LETTERS = st.characters(exclude_categories=("C", "Z")) | st.just(" ")


def showable_texts(most=20):
    """Texts that a study may hold."""
    return (
        st.text(_LETTERS, max_size=most)
        .map(lambda text: " ".join(unicodedata.normalize("NFC", text).split()))
        .filter(lambda text: fault_in(text, most=most) is None)
    )


# What moves a terminal, hides, turns the reading direction or begins a line, and all else.
HOSTILE = "\x00\x07\x08\t\n\r\x1b\x7f\x85\x9b\xa0\xad"
HOSTILE += "\u061c\u115f\u200b\u200d\u202e\u2028\u2066\u3164\ufeff\ufe0f"
hostile_letters = st.sampled_from(HOSTILE) | st.characters()
hostile_texts = st.text(hostile_letters, max_size=40)
