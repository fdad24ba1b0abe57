"""The words that the coordinator acts on are words that a site can say."""

import importlib
import pkgutil

import fedrx_client
import fedrx_models
import fedrx_protocol
from fedrx_common.errors import FedRxError
from fedrx_protocol.messages.refusal import ASKED_AT_ONCE, SENTENCES, Refusal
from fedrx_server.rounds.retry import ENDS

OWN = {Refusal.LOST, Refusal.LEFT_OUT, Refusal.UNREADABLE, Refusal.VERSION_DIFFERS}


def classes_below(kind: type[FedRxError]):
    yield kind
    for child in kind.__subclasses__():
        yield from classes_below(child)


def test_every_word_is_an_error_class_of_a_site_or_the_coordinators_own():
    for package in (fedrx_client, fedrx_models, fedrx_protocol):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    rooms = ("fedrx_client.", "fedrx_common.", "fedrx_models.", "fedrx_protocol.")
    sent = {kind.refusal for kind in classes_below(FedRxError) if kind.__module__.startswith(rooms)}
    assert set(Refusal) - OWN <= sent
    assert not OWN & sent


def test_a_word_is_the_text_that_crosses_the_wire():
    assert Refusal.RUN_UNKNOWN == "RunUnknown"
    assert f"{Refusal.LOST}" == "lost"
    assert "RunUnknown" in ASKED_AT_ONCE


def test_every_word_has_a_sentence_and_an_unknown_one_has_none():
    assert all(SENTENCES[word] for word in Refusal)
    assert SENTENCES.get("WordOfAnotherRelease") is None


def test_a_run_can_end_for_exactly_what_no_waiting_changes():
    assert set(ENDS) == {word for word in Refusal if word.again == "never"}
