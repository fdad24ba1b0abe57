"""What all tests stand on: properties that are in no hurry and draw the same examples."""

from hypothesis import HealthCheck, settings


def test_no_property_fails_because_the_machine_is_slow_or_by_its_draw():
    assert settings.default.deadline is None
    assert HealthCheck.too_slow in settings.default.suppress_health_check
    assert settings.default.derandomize
