"""What is being answered on one base just now. It knows no threads: `worker` has one that calls it."""

import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ownlm.errors import OwnlmError
from ownlm.inference.decoder import Decoder, Reply
from ownlm.inference.label_scoring import answer_tokens, choose
from ownlm.inference.prompt_row import Prompt
from ownlm.inference.sampling import Dice
from ownlm.inference.text import AnswerText
from ownlm.model.base import BaseLM
from ownlm.model.segments import BASE
from ownlm.server.engine import EngineError, Piece, Work
from ownlm.server.prompts import PromptReader
from ownlm.server.slots import Slot, Slots
from ownlm.server.stream import News, OwnStream
from ownlm.store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is answered together.

    Attributes:
        slots: adapters of one shape that are in memory.
        live: answers under way.
        prompt_tokens: of prompts that go through the model in one pass.
        places: tokens whose keys and values are kept.
    """

    slots: int = 64
    live: int = 64
    prompt_tokens: int = 256
    places: int = 2**15


@dataclass(slots=True, eq=False)
class Order:
    """Work, whose stream waits for it, and what it takes up."""

    stream: OwnStream
    came: float = field(default_factory=time.monotonic)
    tokens: list[int] = field(default_factory=list)
    slot: Slot | None = None
    reply: Reply | None = None  # None for one that chooses

    @property
    def work(self) -> Work:
        """What is asked."""
        return self.stream.work

    @property
    def number(self) -> int:
        """Of its slot."""
        return BASE if self.slot is None else self.slot.number


class Running:
    """The answers under way on one base, in one batch.

    Args:
        tell: takes the news of each pass.
    """

    def __init__(self, base: BaseLM, store: Store, limits: Limits, tell: Callable[[list[News]], None]) -> None:
        self.base, self.limits, self.tell = base, limits, tell
        self.slots = Slots(base, store, limits.slots)
        self.decoder = Decoder(base, self.slots.banks, prompt_tokens=limits.prompt_tokens, places=limits.places)
        self.tokens = self.chosen = self._choosing_passes = 0
        self._prompts = PromptReader(base, base.max_tokens)
        self._writing: dict[Reply, Order] = {}
        self._choosing: list[Order] = []

    @property
    def live(self) -> int:
        """How many answers are under way."""
        return len(self._writing) + len(self._choosing)

    def callers(self) -> Counter[str]:
        """How many answers each caller has under way."""
        return Counter(order.work.caller for order in (*self._writing.values(), *self._choosing))

    def counts(self) -> dict[str, int]:
        """See `Engine.counts`."""
        slots = self.slots
        return {
            "live": self.live,
            "slots_used": slots.used,
            "slots": slots.size,
            "hits": slots.hits,
            "misses": slots.misses,
            "evictions": slots.evictions,
            "tokens": self.tokens,
            "passes": self.decoder.passes + self._choosing_passes,
            "chosen": self.chosen,
        }

    def encode(self, order: Order) -> OwnlmError | None:
        """Makes the prompt's tokens; returns what is wrong with it. For a thread other than that of the answers."""
        try:
            order.tokens = self._prompts.read(order.work.prompt, answer_tokens(self.base, order.work.labels, 1))
        except OwnlmError as error:
            return error
        except Exception as error:  # whatever a tokenizer does of a text: it is this order's alone
            return _broken(error)
        return None

    def admit(self, order: Order) -> bool:
        """Lets an order join; what is wrong with it is told to its stream. False while there is no room for it."""
        if order.stream.cancelled:
            return True
        try:
            return self._join(order)
        except OwnlmError as error:
            self.tell([News(order.stream, error)])
        except Exception as error:  # whatever a damaged adapter, or a full memory, does: it is this order's alone
            self.tell([News(order.stream, _broken(error))])
        return True

    def step(self) -> None:
        """One pass for all who write, and one for some of those who choose."""
        self._leave([one for one in (*self._writing.values(), *self._choosing) if one.stream.cancelled])
        if self._choosing:
            together = self._choosing_now()
            self._tell_of(together, lambda: self._choose(together, together[0].work.labels))
        if self._writing:
            self._tell_of(list(self._writing.values()), self._write)

    def _choosing_now(self) -> list[Order]:
        """Who chooses in this pass: the oldest, and those with the same labels, as far as a pass has room for them."""
        oldest, *others = self._choosing
        together, room = [oldest], self.limits.prompt_tokens - len(oldest.tokens)
        for one in others:
            if one.work.labels == oldest.work.labels and len(one.tokens) <= room:
                together.append(one)
                room -= len(one.tokens)
        return together

    def fail(self, error: OwnlmError) -> None:
        """Ends every answer under way with an error."""
        self._end([*self._writing.values(), *self._choosing], error)

    def close(self) -> dict[str, int]:
        """Takes all adapters off the base; returns the last counts."""
        counts = self.counts()
        self.slots.close()
        return counts | {"slots": 0, "slots_used": 0}

    def _join(self, order: Order) -> bool:
        work = order.work
        if self.live >= self.limits.live:
            return False
        most = min(work.max_tokens, self._prompts.room(order.tokens))
        if not work.labels and not self.decoder.has_room(len(order.tokens) + most):
            return False
        if work.adapter is not None:
            order.slot = self.slots.take(work.adapter)
            if order.slot is None:
                return False
        order.stream.began = time.monotonic()
        if work.labels:
            self._choosing.append(order)
            return True
        dice = Dice(work.temperature, work.top_p, work.seed) if work.temperature > 0 else None
        text = AnswerText(self.base, work.stop, work.one_line, order.tokens if work.continues else None)
        order.reply = Reply(order.number, list(order.tokens), most, text, dice)
        self.decoder.join(order.reply)
        self._writing[order.reply] = order
        return True

    def _tell_of(self, orders: Sequence[Order], work: Callable[[], list[News]]) -> None:
        """Does a pass for these orders. If it fails (no memory, say), they all end with an error, and others go on."""
        try:
            news = work()
        except Exception as error:
            self._end(orders, _broken(error))
        else:
            self.tell(news)

    def _write(self) -> list[News]:
        """Everybody's next token, where it says something."""
        news, done = list[News](), list[Order]()
        for reply in self.decoder.step():
            order = self._writing[reply]
            self.tokens += 1
            piece = Piece(reply.text.take(), reply.finish)
            one = self._news(order, piece, reply.heard)
            if one.ends or piece.text:
                news.append(one)
            if one.ends:
                done.append(order)
        self._leave(done)
        return news

    def _choose(self, orders: Sequence[Order], labels: Sequence[str]) -> list[News]:
        """Each one's likeliest label."""
        prompts = [Prompt(order.number, order.tokens) for order in orders]
        choices = choose(
            self.base, self.slots.banks, prompts, [f" {label}" for label in labels], on_done=self._count_choices
        )
        length = {label.strip(): len(self.base.encode_answer(f" {label}")) for label in labels}
        self.tokens += sum(length[found.label] for found in choices)
        news = [
            self._news(one, Piece(found.label, "stop"), length[found.label])
            for one, found in zip(orders, choices, strict=True)
        ]
        self._leave(orders)
        return news

    def _count_choices(self, prompts: int) -> None:
        """A pass has chosen labels for so many prompts."""
        self.chosen += prompts
        self._choosing_passes += 1

    def _news(self, order: Order, piece: Piece, tokens: int) -> News:
        """A piece, if it comes from the adapter that was asked: nobody ever gets another's answer."""
        holds = order.slot.holds if order.slot else None
        asked = order.work.adapter.id if order.work.adapter else None
        if holds != asked:
            what = "Another adapter lies where the one that was asked should lie"
            return News(order.stream, EngineError(what, hint="ask again"))
        return News(order.stream, piece, holds, len(order.tokens), tokens)

    def _end(self, orders: Sequence[Order], error: OwnlmError) -> None:
        if any(order.reply for order in orders):
            self.decoder.clear()  # a pass that failed has taken places, and wrote in no one knows which
        self._leave(orders)
        self.tell([News(order.stream, error) for order in orders])

    def _leave(self, orders: Sequence[Order]) -> None:
        """Frees what orders take up."""
        self.decoder.leave([order.reply for order in orders if order.reply is not None])
        for order in orders:
            if order.reply is None:
                self._choosing.remove(order)
            else:
                del self._writing[order.reply]
            if order.slot is not None:
                self.slots.give_back(order.slot)


def _broken(error: Exception) -> EngineError:
    """Says what went wrong by its kind alone: a message might quote somebody."""
    log.error("%s while answering\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return EngineError("The answer could not be finished", got=type(error).__name__, hint="ask again")
