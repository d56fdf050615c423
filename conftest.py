"""Settings that all tests share."""

from hypothesis import HealthCheck, settings

# The same examples in every run, and no limit on how long they take: that says more about the
# machine than about the code. `--hypothesis-profile default` draws other examples.
settings.register_profile(
    "same-examples",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("same-examples")
