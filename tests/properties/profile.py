"""How much hypothesis tries: enough to be believed, in half a minute on a slow core."""

from hypothesis import HealthCheck, Phase, settings

many_sequences = settings(
    max_examples=500,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
fewer_sequences = settings(many_sequences, max_examples=300)
