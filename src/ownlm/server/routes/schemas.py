"""Request bodies and results of the API for users, as pydantic models; OpenAPI describes them."""

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ownlm.inference.request import Finish
from ownlm.server.routes.openai_requests import Body, without_nulls
from ownlm.store.consents import LICENCE
from ownlm.workflows.adapters import Worth

RECORDS_PER_REQUEST = 10_000

TaskName = Annotated[str, Query(max_length=64, description="Name of a task.")]
PageSize = Annotated[int, Query(ge=1, le=500)]
PageBefore = Annotated[int | None, Query(ge=0, le=2**31, description="`next` of the previous page.")]
JobKind = Literal["train", "assemble"]


class StrictBody(Body):
    """Body of a request in which unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class NewRecords(StrictBody):
    """Records to add: each is an object with the task's fields and optionally `id` and `time`."""

    task: str = Field(max_length=64)
    records: list[Annotated[dict[str, Any], AfterValidator(without_nulls)]] = Field(
        min_length=1, max_length=RECORDS_PER_REQUEST
    )


class TaskBody(StrictBody):
    """The task for which an adapter is made."""

    task: str = Field(max_length=64)


class ConsentBody(StrictBody):
    """Whether the user agrees to share pieces of their adapters, and under which licence."""

    shares: bool
    licence: str = Field(LICENCE, min_length=1, max_length=10_000)


class RecordChanges(StrictBody):
    """New values of a record's fields; `time` is its time. A blank text removes an optional field, or the time."""

    changes: dict[str, str] = Field(min_length=1, max_length=100)


class VersionBody(StrictBody):
    """A version of an adapter: its id, or the beginning of its id."""

    task: str = Field(max_length=64)
    version: str = Field(min_length=1, max_length=64)


class Result(BaseModel):
    """JSON object that a route returns."""

    model_config = ConfigDict(extra="forbid")


class TaskInfo(Result):
    """A task: its instruction, the fields of its inputs and records, and its labels."""

    name: str
    instruction: str
    input_fields: tuple[str, ...]
    required: tuple[str, ...]
    record_fields: tuple[str, ...]
    answer_field: str
    labels: tuple[str, ...] | None


class TaskList(Result):
    """Tasks of this home."""

    tasks: list[TaskInfo]


class ConsentResult(Result):
    """The user's consent to share; `pools` is the number of pools with pieces of theirs."""

    shares: bool
    licence: str | None
    since: str | None
    pools: int


class AdapterResult(Result):
    """One version of an adapter; `behind` is the number of records that it has not learnt from."""

    id: str
    method: str
    base: str
    records: int
    steps: int
    loss_first: float | None
    loss_last: float | None
    bytes: int
    created: str
    behind: int
    forgotten: int
    stale: str | None
    waits: bool


class AdapterStatus(Result):
    """The newest version of an adapter, and its standing in words."""

    adapter: AdapterResult | None
    standing: str
    worth: Worth


class TaskStatus(AdapterStatus):
    """The user's records and adapter in one task."""

    task: str
    records: int


class UserResult(Result):
    """The caller: user, scope of the token, consent, and what the home has of each task."""

    user: str | None
    scope: str
    expires: str | None
    consent: ConsentResult | None
    tasks: list[TaskStatus]


class DeletedUser(Result):
    """What was deleted with a user."""

    records: int
    profiles: int
    adapters: int
    blobs: int
    searched: int
    bases: tuple[str, ...]
    withdrawn: int
    waiting: int
    finished: bool


class RecordResult(Result):
    """A record of the user's history."""

    id: str
    task: str
    time: str | None
    fields: dict[str, str]


class RecordPage(Result):
    """One page of records; `next` is the `before` of the following page."""

    total: int
    records: list[RecordResult]
    next: int | None


class AddedRecords(Result):
    """Numbers of records that are new, were known, or were deleted earlier and stay so."""

    new: int
    known: int
    forgotten: int


class DeletedRecord(Result):
    """What was deleted with a record, and how many adapters and pools are affected."""

    records: int
    marked: int
    adapters: int
    pools: int
    finished: bool


class EditedRecord(Result):
    """An edited record, and how many adapters and pools are affected."""

    record: RecordResult
    changed: tuple[str, ...]
    marked: int
    pools: int
    finished: bool


class JobResult(Result):
    """A job: training or assembly of an adapter."""

    id: str
    kind: str
    task: str
    state: str
    error: dict[str, Any] | None
    progress: dict[str, Any] | None
    adapter: str | None
    created: str
    ended: str | None


class JobPage(Result):
    """One page of jobs; `next` is the `before` of the following page."""

    jobs: list[JobResult]
    next: int | None


class AdapterDetails(AdapterStatus):
    """An adapter with all its versions and its jobs.

    `not_offered` gives the reason why a job cannot be started now, or would change nothing: `at_work`, `no_base`,
    `no_pieces`, `no_records`, `up_to_date`, `waits` (for a withdrawal); null where it can.
    """

    versions: list[AdapterResult]
    job: JobResult | None
    open_jobs: list[JobResult]
    not_offered: dict[JobKind, str | None]


class UsedVersion(Result):
    """The version of an adapter that answers from now on."""

    adapter: str
    task: str
    behind: int


class PiecesResult(Result):
    """Weights of the pieces in an assembled adapter: `amount` is indexed by [kind][sharer][layer]."""

    sharers: tuple[str, ...]
    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    amount: list[list[list[float]]]
    share: list[float]


class Health(Result):
    """State of a server that can read its home."""

    status: Literal["ok"]


class Model(Result):
    """A task of this home, as a model of OpenAI's API."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Result):
    """The tasks of this home, as models."""

    object: Literal["list"]
    data: list[Model]


class Usage(Result):
    """Numbers of tokens in prompts and answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Extras(Result):
    """What answered, beside the fields of OpenAI's API; `retrieved` has the ids of the records in the prompt."""

    adapter: str | None
    base: str
    warning: str | None
    retrieved: list[str]


class ChatExtras(Extras):
    """The same for a chat; `ignored_messages` is the number of messages that were not read."""

    ignored_messages: int


class ChatMessage(Result):
    """The answer to a chat."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Result):
    """The answer to a chat, and why it ended."""

    index: int
    message: ChatMessage
    finish_reason: Finish
    logprobs: None


class TextChoice(Result):
    """The continuation of one prompt, and why it ended."""

    index: int
    text: str
    finish_reason: Finish
    logprobs: None


class Completion(Result):
    """What all completions have in common."""

    id: str
    created: int
    model: str
    usage: Usage


class ChatCompletion(Completion):
    """A complete answer to a chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    ownlm: ChatExtras


class TextCompletion(Completion):
    """Complete continuations of prompts."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    ownlm: Extras
