"""A study as options of the command line change it."""

from dataclasses import replace

from made_up_study import made_up_config
from plait.studies.restating import restated
from plait.studies.study import Study
from plait.studies.tuning import Tuning

PLAIN = made_up_config()


def _study(**options):
    fast = replace(PLAIN, optimizer=replace(PLAIN.optimizer, learning_rate=0.08))
    return Study(name="s", baseline="plain", variants={"fast": fast, "plain": PLAIN}, **options)


def test_every_variant_is_tuned_around_the_rate_of_the_baseline():
    rate = PLAIN.optimizer.learning_rate
    tuned = restated(_study(), tune=True)
    assert tuned.tuning == Tuning(learning_rate=(rate / 2, rate, 2 * rate))
    assert not set(tuned.tuning.seeds) & set(tuned.seeds)
    assert restated(_study()).tuning is None


def test_a_tuning_that_the_study_states_stays():
    stated = Tuning(learning_rate=(1e-4, 2e-4, 4e-4))
    assert restated(_study(tuning=stated), tune=True).tuning == stated


def test_options_of_all_variants():
    changed = restated(_study(), options=["data.corpus=papers-2k"], seeds="3..5")
    assert {c.data.corpus for c in changed.variants.values()} == {"papers-2k"}
    assert changed.seeds == (3, 4, 5)
