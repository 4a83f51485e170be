import multiprocessing

import pytest


@pytest.fixture(scope="session")
def processes():
    """Real processes that start fast: forked from a server which has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["plait.training.loop"])
    return context
