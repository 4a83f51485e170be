import pytest
from hypothesis import settings

from plait.data import Corpus, corpora

# a loaded machine is no failure: no test asserts on time
settings.register_profile("data", deadline=None, max_examples=50)
settings.load_profile("data")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Corpus:
    return corpora.tiny(tmp_path_factory.mktemp("corpora") / "tiny")
