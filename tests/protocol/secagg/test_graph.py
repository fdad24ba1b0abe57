"""The mask graph: symmetric, of the right degree, and equal for everybody in a session."""

import pytest
from secagg_federation import roster_of, site_names

from fedrx_protocol.secagg.errors import ParametersImpossible
from fedrx_protocol.secagg.graph import Graph
from fedrx_protocol.secagg.parameters import SecAggParameters


def graph(n, session=b"s" * 32):
    return Graph.of(roster_of(n), SecAggParameters.for_roster(n), session)


@pytest.mark.parametrize("n", [3, 21, 65, 100])
def test_neighbours_are_mutual_and_as_many_as_agreed(n):
    made = graph(n)
    for site in made.sites:
        near = made.neighbours(site)
        assert len(near) == made.parameters.degree
        assert site not in near
        assert all(site in made.neighbours(other) for other in near)


def test_the_ring_depends_on_the_session():
    first, again, other = graph(100), graph(100), graph(100, b"t" * 32)
    assert all(first.neighbours(site) == again.neighbours(site) for site in first.sites)
    assert any(first.neighbours(site) != other.neighbours(site) for site in first.sites)


def test_peers_and_holders_are_sorted_and_within_the_list():
    made, some = graph(5), site_names(5)[1:4]
    assert made.peers("site-002", some) == ("site-001", "site-003")
    assert made.holders("site-002", some) == ("site-001", "site-002", "site-003")
    assert made.points["site-000"] == 1


def test_a_thin_neighbourhood_is_named():
    made = graph(100)
    near = sorted(made.neighbours("site-000"))
    gone = set(near[: len(near) - made.parameters.share_threshold + 2])
    assert "site-000" in made.thin([site for site in made.sites if site not in gone])
    assert made.thin(made.sites) == ()


def test_parameters_of_another_roster_are_refused():
    with pytest.raises(ParametersImpossible, match="for 5 sites"):
        Graph.of(roster_of(4), SecAggParameters.for_roster(5), b"s" * 32)
