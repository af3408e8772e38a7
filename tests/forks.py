"""Processes that tests end as they like, forked from one server that has imported what they run."""

import multiprocessing

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(  # else each start takes seconds; one server serves all tests
    [
        "ownlm.bench.run",
        "ownlm.home",
        "ownlm.workflows.train",
        "ownlm.workflows.bases",
        "ownlm.workflows.pools.share",
        "ownlm.workflows.pools.withdraw",
        "tests.sharing",
        "transformers.models.auto.modeling_auto",
        "transformers.models.auto.tokenization_auto",
        "transformers.models.llama.modeling_llama",
    ]
)
