"""The engine in the calling thread: loads bases, and answers requests in mixed batches."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain, groupby

from ownlm.errors import OwnlmError
from ownlm.inference.adapter_cache import AdapterCache, AttachedAdapter
from ownlm.inference.load import RECIPE, load_peft_adapter, load_registered
from ownlm.inference.request import Request, RequestOutput
from ownlm.inference.scheduler import EngineLimits, Scheduler
from ownlm.inference.sequence import Sequence
from ownlm.model.base import BaseLM
from ownlm.model.bases.placement import DEFAULT, Placement
from ownlm.progress import Progress, silent
from ownlm.store.rows import AdapterInfo, BaseInfo
from ownlm.store.store import Store

BATCH = EngineLimits(
    slots=16, running=256, prompt_tokens=4096, cache_tokens=8192, admission_s=math.inf, overtaking_s=0.0
)


class Engine:
    """Answers requests of one store, each with its own adapter. `generate` drives the scheduler in the calling thread.

    A request names a registered base and a stored adapter, or the base alone::

        engine = Engine(store)
        for output in engine.generate([Request(base, adapter, "note: Rent is due.", max_tokens=8)]):
            print(output.text)

    Args:
        placement: Device of the models, and type of their weights.
        limits: How much is computed together.
    """

    def __init__(self, store: Store, placement: Placement = DEFAULT, limits: EngineLimits = BATCH) -> None:
        self.store, self.placement, self.limits = store, placement, limits
        self._loaded: BaseLM | None = None

    def load(self, base: BaseInfo, progress: Progress = silent) -> BaseLM:
        """Returns a base, ready to run. One base is kept in memory.

        Raises:
            BaseModelError: The base has changed, or cannot be loaded.
        """
        if self._loaded is None or self._loaded.fingerprint != base.fingerprint:
            progress("loading the base", 0, 0, base.name)
            self._loaded = None  # before the next is loaded: two may not fit
            self._loaded = load_registered(base, self.placement)
        return self._loaded

    def generate(self, requests: Iterable[Request]) -> Iterator[RequestOutput]:
        """Answers requests, and yields each one's whole answer, or its error, in their order.

        Requests are taken as there is room for them, so there may be any number. Neighbours on one base share batches;
        requests of one adapter should follow each other. Adapters of other methods than LoRA run one at a time.

        Raises:
            BaseModelError: A base cannot be loaded.
        """
        for (_, peft), group in groupby(requests, key=lambda one: (one.base.fingerprint, _peft_adapter(one))):
            first = next(group)
            base, members = self.load(first.base), chain([first], group)  # noqa: B031
            if peft is None or first.adapter is None:
                with closing(AdapterCache(base, self.store, self.limits.slots, pool_banks=False)) as adapters:
                    yield from drive(Scheduler(base, adapters, self.limits), members)
            else:  # all answers before the first is returned: no other request may run while peft has the base
                yield from self._with_peft(base, first.adapter, members)

    def _with_peft(self, base: BaseLM, info: AdapterInfo, requests: Iterator[Request]) -> list[RequestOutput]:
        try:
            adapter = load_peft_adapter(self.store, info, base)
        except OwnlmError as error:
            return [RequestOutput(error=error) for _ in requests]
        with adapter.attached(base.model) as attached:
            scheduler = Scheduler(base, AttachedAdapter(info.id, attached.virtual_tokens), self.limits)
            return list(drive(scheduler, requests))


def _peft_adapter(request: Request) -> str | None:
    """Returns the id of an adapter that peft must attach; None for LoRA, for recipes, and for the base."""
    adapter = request.adapter
    return None if adapter is None or adapter.method in ("lora", RECIPE) else adapter.id


def drive(scheduler: Scheduler, requests: Iterator[Request]) -> Iterator[RequestOutput]:
    """Drives the scheduler until all requests are answered; yields whole answers in the order of the requests."""
    order, texts = deque[Sequence](), dict[Sequence, list[str]]()
    finished, more = dict[Sequence, RequestOutput](), True
    while more or order:
        while more and scheduler.unfinished < scheduler.limits.running:
            request = next(requests, None)
            if more := request is not None:
                sequence = Sequence(request)
                order.append(sequence)
                texts[sequence] = []
                if (error := scheduler.encode(sequence)) is None:
                    scheduler.add(sequence)
                else:
                    finished[sequence] = RequestOutput(error=error)
        for outputs in scheduler.step():
            for sequence, output in outputs:
                texts[sequence].append(output.text)
                if output.finished:
                    finished[sequence] = replace(output, text="".join(texts[sequence]))
        while order and order[0] in finished:
            del texts[order[0]]
            yield finished.pop(order.popleft())
