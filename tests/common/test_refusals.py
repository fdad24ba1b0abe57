"""The word that crosses the wire where a site refuses."""

from fedrx_client.participation.site import ModelMismatch
from fedrx_common.errors import FedRxError, MisuseError, PeerError
from fedrx_models.contract import WeightsMismatch


def test_a_class_is_its_own_word_unless_it_is_given_another():
    class TornApart(PeerError):
        """For this test."""

    class Renamed(MisuseError, refusal="TornApart"):
        """For this test."""

    assert (TornApart("x").refusal, Renamed("x").refusal) == ("TornApart", "TornApart")
    assert FedRxError("x").refusal == "FedRxError"


def test_a_word_is_not_inherited():
    class Renamed(MisuseError, refusal="Else"):
        """For this test."""

    class Narrower(Renamed):
        """For this test."""

    assert Narrower("x").refusal == "Narrower"


def test_weights_that_do_not_fit_and_a_model_that_was_not_named_are_one_word_on_the_wire():
    assert WeightsMismatch("x").refusal == ModelMismatch("x").refusal == "ModelMismatch"
